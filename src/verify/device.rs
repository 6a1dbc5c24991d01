//! Where a forward pass computes.

use crate::error::{Error, ErrorKind, Result};
use crate::load::{self, DeviceSpec};
use candle_core::Device;

/// The device that a person means: `cpu`, `cuda`, `cuda:1`, `cuda:GPU-…`, as for a load; `auto` (or nothing) is the first GPU
/// where this build computes on GPUs and there is one, else the CPU.
///
/// # Errors
/// `Usage`: no such name. `Unsupported`: a GPU, and this build has no kernels for one. `Driver`: a GPU that is not there, or
/// one that is there and broken.
pub fn parse(text: Option<&str>) -> Result<Device> {
    let spec = match text.unwrap_or("auto") {
        "auto" if cfg!(not(feature = "candle-cuda")) => return Ok(Device::Cpu),
        "auto" => None,
        text => Some(text.parse::<DeviceSpec>()?),
    };
    if cfg!(not(feature = "candle-cuda")) && spec != Some(DeviceSpec::Cpu) {
        return Err(Error::unsupported("this build of hoist computes on the CPU only")
            .hint("`cargo build --release --features candle-cuda`, with NVIDIA's toolkit, makes one that computes on GPUs"));
    }
    match load::detect(spec.as_ref())?.device {
        load::Device::Cpu => Ok(Device::Cpu),
        load::Device::Cuda(ordinal) => Device::new_cuda(ordinal as usize)
            .map_err(|e| Error::new(ErrorKind::Driver, format!("cuda:{ordinal} cannot be used: {e}"))),
    }
}

/// The device's name, as [`parse`] reads it.
pub fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(parse(Some("cpu")).map(|d| name(&d)).unwrap(), "cpu");
        for (text, kind) in [
            ("gpu", ErrorKind::Usage),
            ("cuda:", ErrorKind::Usage),
            ("cuda:x", ErrorKind::Usage),
            #[cfg(not(feature = "candle-cuda"))]
            ("cuda", ErrorKind::Unsupported),
            #[cfg(not(feature = "candle-cuda"))]
            ("cuda:1", ErrorKind::Unsupported),
        ] {
            assert_eq!(parse(Some(text)).unwrap_err().kind(), kind, "{text}");
        }
        #[cfg(not(feature = "candle-cuda"))]
        assert_eq!(parse(None).map(|d| name(&d)).unwrap(), "cpu");
    }
}
