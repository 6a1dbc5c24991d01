//! Which device a load goes to. The rules are pure: they see the request, the environment and what the driver said,
//! and touch nothing, so each rule is a row of a test.
//!
//! The rule behind the rules: a machine without a GPU loads to the CPU and says so; a machine with a broken GPU, or a
//! person who asked for a GPU, never gets a silent load to the CPU.

use crate::error::{Error, ErrorKind, Result};
use crate::text::Shown;
use std::fmt;
use std::str::FromStr;

/// What a person asks for: `cpu`, `cuda`, `cuda:1`, `cuda:GPU-5a3c…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSpec {
    /// Host memory.
    Cpu,
    /// The first GPU that CUDA shows.
    Cuda,
    /// The GPU of this number, counted after CUDA_VISIBLE_DEVICES.
    CudaIndex(u32),
    /// The GPU (or MIG instance) of this UUID, or of the one UUID that begins so.
    CudaUuid(String),
}

impl FromStr for DeviceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<DeviceSpec> {
        let refused = || {
            Error::usage(format!("device `{}` is not known", Shown(text)))
                .hint("cpu, cuda, cuda:N (as in `cuda:0`), or cuda:GPU-… with a UUID of `nvidia-smi -L`")
        };
        let lower = text.trim().to_ascii_lowercase();
        let Some(which) = lower.strip_prefix("cuda:") else {
            return match lower.as_str() {
                "cpu" => Ok(DeviceSpec::Cpu),
                "cuda" => Ok(DeviceSpec::Cuda),
                _ => Err(refused()),
            };
        };
        if which.starts_with("gpu-") || which.starts_with("mig-") {
            let rest = which.get(4..).unwrap_or_default();
            if rest.is_empty() || !rest.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
                return Err(refused());
            }
            return Ok(DeviceSpec::CudaUuid(format!("{}{rest}", which[..4].to_ascii_uppercase())));
        }
        if which.is_empty() || !which.bytes().all(|b| b.is_ascii_digit()) {
            return Err(refused());
        }
        which.parse().map(DeviceSpec::CudaIndex).map_err(|_| refused())
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Cpu => f.write_str("cpu"),
            DeviceSpec::Cuda => f.write_str("cuda"),
            DeviceSpec::CudaIndex(index) => write!(f, "cuda:{index}"),
            DeviceSpec::CudaUuid(uuid) => write!(f, "cuda:{uuid}"),
        }
    }
}

/// Where a load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// Host memory.
    Cpu,
    /// The GPU of this number, counted after CUDA_VISIBLE_DEVICES.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// The device, and why it is the CPU where nobody asked for the CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Where the load goes.
    pub device: Device,
    /// "no GPU: libcuda.so.1 not found": for the line that names the device. `None` where the device is what was
    /// asked for, or a GPU.
    pub reason: Option<String>,
}

/// What the driver said when it was asked.
#[derive(Debug)]
pub enum Probe {
    /// This build has no CUDA.
    NotBuilt,
    /// There is no driver library.
    NoLibrary,
    /// The driver does not start.
    Refused {
        /// The driver's code.
        code: u32,
        /// What failed, with the code and its name.
        message: String,
        /// The usual cause.
        cause: Option<String>,
        /// What to do.
        hint: Option<String>,
    },
    /// The UUIDs of the GPUs it shows, in its order.
    Devices(Vec<String>),
}

/// The library is a toolkit's stub: as good as none.
const STUB_LIBRARY: u32 = 34;
/// No GPU that CUDA can use.
const NO_DEVICE: u32 = 100;

/// Chooses for this process: the real environment, the real driver, the real `/dev`.
///
/// # Errors
/// As [`choose`].
pub fn detect(request: Option<&DeviceSpec>) -> Result<Choice> {
    choose(
        request,
        |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()),
        nvidia_nodes,
        probe,
    )
}

/// Chooses. `request` is the command line's (`None`: not said); `env` looks up a variable; `nvidia_nodes` says whether
/// `/dev/nvidia*` exists; `probe` opens the driver, and is called only where the answer can depend on it.
///
/// # Errors
/// Usage: a device that is not known, HOIST_FORCE_CPU against an explicit GPU, a UUID that names several. Driver: a
/// GPU was asked for and is not there; the driver is broken. Unsupported: a GPU was asked for and this build has no
/// CUDA.
pub fn choose(
    request: Option<&DeviceSpec>,
    env: impl Fn(&str) -> Option<String>,
    nvidia_nodes: impl FnOnce() -> bool,
    probe: impl FnOnce() -> Probe,
) -> Result<Choice> {
    let from_env = match env("HOIST_DEVICE").filter(|v| request.is_none() && !v.trim().is_empty()) {
        Some(text) => Some(text.parse::<DeviceSpec>().map_err(|e| e.detail("HOIST_DEVICE says so"))?),
        None => None,
    };
    let (spec, origin) = match (request, &from_env) {
        (Some(spec), _) => (Some(spec), "--device"),
        (None, Some(spec)) => (Some(spec), "HOIST_DEVICE"),
        (None, None) => (None, ""),
    };
    if spec == Some(&DeviceSpec::Cpu) {
        return Ok(Choice { device: Device::Cpu, reason: None });
    }
    if is_set(&env, "HOIST_FORCE_CPU")? {
        if let Some(spec) = spec {
            return Err(Error::usage(format!("{origin} asks for `{spec}` and HOIST_FORCE_CPU forbids it"))
                .hint("unset one of them"));
        }
        return Ok(cpu("HOIST_FORCE_CPU is set"));
    }
    let visible = env("CUDA_VISIBLE_DEVICES").map(|v| v.trim().to_owned());
    if let Some(value) = visible.as_deref().filter(|v| hides_all(v)) {
        let reason = format!("CUDA_VISIBLE_DEVICES=`{}` hides every GPU", Shown(value));
        return match spec {
            Some(spec) => {
                Err(Error::new(ErrorKind::Driver, format!("{origin} asks for `{spec}`, but {reason}"))
                    .hint("unset CUDA_VISIBLE_DEVICES, or take --device cpu"))
            }
            None => Ok(cpu(reason)),
        };
    }
    // Who asked for a GPU, if anyone: decides between a fallback and an error.
    let asked: Option<String> = match spec {
        Some(spec) => Some(format!("{origin} asks for `{spec}`")),
        None => {
            [("CUDA_VISIBLE_DEVICES", visible), ("NVIDIA_VISIBLE_DEVICES", env("NVIDIA_VISIBLE_DEVICES"))]
                .into_iter()
                .find_map(|(name, value)| {
                    value
                        .filter(|v| names_device(v))
                        .map(|v| format!("{name}=`{}` asks for a GPU", Shown(&v)))
                })
        }
    };
    let error = |kind, message: String, detail: Option<String>, hint: Option<String>| {
        let mut error = Error::new(
            kind,
            match &asked {
                Some(asked) => format!("{asked}: {message}"),
                None => message,
            },
        );
        if let Some(detail) = detail {
            error = error.detail(detail);
        }
        if let Some(hint) = hint {
            error = error.hint(hint);
        }
        error
    };
    let (reason, error) = match probe() {
        Probe::Devices(uuids) => {
            return pick(spec, &uuids).map(|index| Choice { device: Device::Cuda(index), reason: None });
        }
        Probe::NotBuilt => (
            "this build of hoist has no CUDA",
            error(
                ErrorKind::Unsupported,
                "this build of hoist has no CUDA".into(),
                None,
                Some("build it with the feature `cuda`".into()),
            ),
        ),
        Probe::NoLibrary => (
            "no GPU: libcuda.so.1 not found",
            error(
                ErrorKind::Driver,
                "libcuda.so.1 not found".into(),
                Some("the NVIDIA driver is not installed, or not given to this container".into()),
                Some("start the container with the GPU (`--gpus all`, or the device plugin)".into()),
            ),
        ),
        Probe::Refused { code, message, cause, hint } => {
            let reason = match code {
                STUB_LIBRARY => "no GPU: the libcuda found is a toolkit's stub",
                NO_DEVICE if !nvidia_nodes() => "no GPU: the driver sees none",
                // A broken GPU node: with /dev/nvidia* there is a GPU, and it does not work.
                NO_DEVICE => {
                    let cause = "the driver sees no GPU that CUDA can use, although /dev/nvidia* exists";
                    return Err(error(ErrorKind::Driver, message, Some(cause.into()), hint));
                }
                _ => return Err(error(ErrorKind::Driver, message, cause, hint)),
            };
            (reason, error(ErrorKind::Driver, message, cause, hint))
        }
    };
    if asked.is_some() { Err(error) } else { Ok(cpu(reason)) }
}

fn cpu(reason: impl Into<String>) -> Choice {
    Choice { device: Device::Cpu, reason: Some(reason.into()) }
}

/// The index that `spec` means among the devices there are.
fn pick(spec: Option<&DeviceSpec>, uuids: &[String]) -> Result<u32> {
    let count = uuids.len();
    let shows = match count {
        1 => "CUDA shows 1 GPU, cuda:0".to_owned(),
        n => format!("CUDA shows {n} GPUs, cuda:0 to cuda:{}", n.saturating_sub(1)),
    };
    let absent = |spec: &DeviceSpec| {
        Error::new(ErrorKind::Driver, format!("{spec} is not there: {shows}"))
            .hint("`hoist doctor` lists them; CUDA_VISIBLE_DEVICES hides and renumbers them")
    };
    match spec {
        Some(spec @ DeviceSpec::CudaIndex(index)) => match usize::try_from(*index) {
            Ok(i) if i < count => Ok(*index),
            _ => Err(absent(spec)),
        },
        Some(spec @ DeviceSpec::CudaUuid(uuid)) => {
            let wanted = uuid.to_ascii_lowercase();
            let mut found = (0u32..).zip(uuids).filter(|(_, u)| u.to_ascii_lowercase().starts_with(&wanted));
            match (found.next(), found.next()) {
                (Some((index, _)), None) => Ok(index),
                (None, _) => Err(absent(spec)),
                (Some(_), Some(_)) => Err(Error::usage(format!("{spec} names more than one GPU"))
                    .hint("give more of the UUID; `nvidia-smi -L` lists them")),
            }
        }
        Some(DeviceSpec::Cpu | DeviceSpec::Cuda) | None => match count {
            0 => Err(absent(&DeviceSpec::CudaIndex(0))),
            _ => Ok(0),
        },
    }
}

/// Whether a switch is on. A value that is neither on nor off is refused rather than guessed.
fn is_set(env: &impl Fn(&str) -> Option<String>, name: &str) -> Result<bool> {
    let Some(value) = env(name) else { return Ok(false) };
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "0" | "false" | "no" | "off" => Ok(false),
        "1" | "true" | "yes" | "on" => Ok(true),
        _ => Err(Error::usage(format!("{name}=`{}` is neither on nor off", Shown(&value))).hint("1 or 0")),
    }
}

/// Whether CUDA_VISIBLE_DEVICES hides everything. CUDA stops reading at the first entry that it does not know, `-1`
/// is the usual one; NoDevFiles is what Slurm writes for a job without GPUs.
fn hides_all(value: &str) -> bool {
    let first = value.split(',').next().unwrap_or_default().trim();
    first.is_empty() || first == "-1" || first == "NoDevFiles"
}

/// Whether a list of devices names one, by index or UUID. `all`, `none`, `void` and the like ask for nothing.
fn names_device(value: &str) -> bool {
    value.split(',').map(str::trim).any(|entry| {
        let mig =
            |s: &str| s.split(':').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        mig(entry) || entry.starts_with("GPU-") || entry.starts_with("MIG-")
    })
}

fn nvidia_nodes() -> bool {
    std::fs::read_dir("/dev")
        .is_ok_and(|entries| entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("nvidia")))
}

#[cfg(not(feature = "cuda"))]
fn probe() -> Probe {
    Probe::NotBuilt
}

#[cfg(feature = "cuda")]
fn probe() -> Probe {
    use super::cuda::driver::{Presence, devices, presence};
    let refused = |fault: super::cuda::driver::Fault| Probe::Refused {
        code: fault.code,
        message: fault.to_string(),
        cause: fault.cause().map(str::to_owned),
        hint: fault.hint().map(str::to_owned),
    };
    match presence() {
        Presence::NoLibrary => Probe::NoLibrary,
        Presence::Refused(fault) => refused(fault),
        Presence::Present { .. } => match devices() {
            Ok(devices) => Probe::Devices(devices.into_iter().map(|d| d.uuid).collect()),
            Err(fault) => refused(fault),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        use DeviceSpec::*;
        let uuid = |s: &str| Some(CudaUuid(s.into()));
        for (text, expected) in [
            ("cpu", Some(Cpu)),
            ("CPU", Some(Cpu)),
            ("cuda", Some(Cuda)),
            ("cuda:0", Some(CudaIndex(0))),
            ("cuda:12", Some(CudaIndex(12))),
            ("cuda:GPU-5a3c", uuid("GPU-5a3c")),
            ("cuda:gpu-5A3C-00", uuid("GPU-5a3c-00")),
            ("cuda:MIG-5a3c", uuid("MIG-5a3c")),
            ("", None),
            ("cuda:", None),
            ("cuda:-1", None),
            ("cuda:+1", None),
            ("cuda:99999999999", None),
            ("cuda:GPU-", None),
            ("cuda:GPU-xyz", None),
            ("cuda:gpü-1", None),
            ("gpu", None),
            ("0", None),
        ] {
            assert_eq!(text.parse::<DeviceSpec>().ok(), expected, "`{text}`");
            if let Some(spec) = expected {
                assert_eq!(spec.to_string().parse::<DeviceSpec>().ok(), Some(spec));
            }
        }
    }

    /// What a row expects: the device and a part of the reason, or the exit code and a part of the message.
    type Expected = std::result::Result<(&'static str, &'static str), (u8, &'static str)>;

    /// The request, the environment, whether /dev/nvidia* exists, the driver, and what must come.
    type Row = (&'static str, &'static [(&'static str, &'static str)], bool, Driver, Expected);

    /// What the driver says in a row; `Untouched` fails the row when the driver is opened.
    #[derive(Clone, Copy)]
    enum Driver {
        Untouched,
        NotBuilt,
        NoLibrary,
        Code(u32),
        Two,
    }

    fn check(
        request: &str,
        env: &[(&str, &str)],
        nodes: bool,
        driver: Driver,
        expected: Expected,
    ) -> Option<String> {
        let spec: Option<DeviceSpec> = (!request.is_empty()).then(|| request.parse().unwrap());
        let lookup = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let probe = || match driver {
            Driver::Untouched => panic!("the driver was opened"),
            Driver::NotBuilt => Probe::NotBuilt,
            Driver::NoLibrary => Probe::NoLibrary,
            Driver::Code(code) => Probe::Refused {
                code,
                message: format!("`cuInit` failed with {code}"),
                cause: Some("its cause".into()),
                hint: None,
            },
            Driver::Two => Probe::Devices(vec!["GPU-5a3c0000-1".into(), "GPU-5a3d0000-2".into()]),
        };
        let got = choose(spec.as_ref(), lookup, || nodes, probe);
        let right = match (&got, &expected) {
            (Ok(choice), Ok((device, reason))) => {
                choice.device.to_string() == *device
                    && choice.reason.is_some() != reason.is_empty()
                    && choice.reason.as_deref().unwrap_or_default().contains(reason)
            }
            (Err(error), Err((code, text))) => {
                error.kind().exit_code() == *code && error.to_string().contains(text)
            }
            _ => false,
        };
        (!right).then(|| format!("`{request}` {env:?}: expected {expected:?}, got {got:?}"))
    }

    #[test]
    fn rules() {
        use Driver::*;
        const CVD: &str = "CUDA_VISIBLE_DEVICES";
        const NVD: &str = "NVIDIA_VISIBLE_DEVICES";
        const HD: &str = "HOIST_DEVICE";
        const FORCE: &str = "HOIST_FORCE_CPU";
        #[rustfmt::skip]
        let rows: &[Row] = &[
            // The default.
            ("", &[], false, Two, Ok(("cuda:0", ""))),
            ("", &[], false, NoLibrary, Ok(("cpu", "libcuda.so.1 not found"))),
            ("", &[], false, NotBuilt, Ok(("cpu", "no CUDA"))),
            ("", &[], false, Code(34), Ok(("cpu", "stub"))),
            ("", &[], false, Code(100), Ok(("cpu", "sees none"))),
            ("", &[], true, Code(100), Err((10, "although /dev/nvidia*"))),
            ("", &[], false, Code(802), Err((10, "802"))),
            ("", &[], false, Code(803), Err((10, "803"))),
            ("", &[], false, Code(999), Err((10, "999"))),
            // The CPU, asked for: the driver stays closed.
            ("cpu", &[], true, Untouched, Ok(("cpu", ""))),
            ("cpu", &[(FORCE, "1")], true, Untouched, Ok(("cpu", ""))),
            ("cpu", &[(CVD, "0")], true, Untouched, Ok(("cpu", ""))),
            ("", &[(HD, "cpu")], true, Untouched, Ok(("cpu", ""))),
            ("", &[(CVD, "")], true, Untouched, Ok(("cpu", "hides every GPU"))),
            ("", &[(CVD, "-1")], true, Untouched, Ok(("cpu", "hides every GPU"))),
            ("", &[(CVD, "-1,0")], true, Untouched, Ok(("cpu", "hides every GPU"))),
            ("", &[(CVD, "NoDevFiles")], true, Untouched, Ok(("cpu", "hides every GPU"))),
            ("", &[(CVD, ""), (NVD, "0")], true, Untouched, Ok(("cpu", "hides every GPU"))),
            ("", &[(FORCE, "1")], true, Untouched, Ok(("cpu", "HOIST_FORCE_CPU"))),
            ("", &[(FORCE, "1"), (CVD, "0")], true, Untouched, Ok(("cpu", "HOIST_FORCE_CPU"))),
            ("", &[(FORCE, "0")], false, Two, Ok(("cuda:0", ""))),
            ("", &[(FORCE, "maybe")], false, Untouched, Err((2, "neither on nor off"))),
            // A GPU, asked for.
            ("cuda", &[], false, Two, Ok(("cuda:0", ""))),
            ("cuda:1", &[], false, Two, Ok(("cuda:1", ""))),
            ("cuda:2", &[], false, Two, Err((10, "cuda:2 is not there: CUDA shows 2 GPUs"))),
            ("cuda:GPU-5a3d", &[], false, Two, Ok(("cuda:1", ""))),
            ("cuda:GPU-5A3D0000-2", &[], false, Two, Ok(("cuda:1", ""))),
            ("cuda:GPU-5a3", &[], false, Two, Err((2, "more than one"))),
            ("cuda:GPU-ffff", &[], false, Two, Err((10, "is not there"))),
            ("cuda", &[(CVD, "")], false, Untouched, Err((10, "hides every GPU"))),
            ("cuda", &[(FORCE, "1")], false, Untouched, Err((2, "HOIST_FORCE_CPU"))),
            ("", &[(HD, "cuda"), (FORCE, "1")], false, Untouched, Err((2, "HOIST_DEVICE asks"))),
            ("cuda", &[], false, NoLibrary, Err((10, "libcuda.so.1 not found"))),
            ("cuda", &[], false, NotBuilt, Err((9, "no CUDA"))),
            ("cuda", &[], false, Code(34), Err((10, "--device asks for `cuda`: `cuInit` failed with 34"))),
            ("cuda", &[], false, Code(100), Err((10, "100"))),
            ("", &[(HD, "cuda:0")], false, NoLibrary, Err((10, "libcuda.so.1"))),
            ("", &[(HD, "cuda:1")], false, Two, Ok(("cuda:1", ""))),
            ("cuda:0", &[(HD, "cuda:1")], false, Two, Ok(("cuda:0", ""))),
            ("", &[(HD, "tpu")], false, Untouched, Err((2, "`tpu`"))),
            ("", &[(HD, "")], false, NoLibrary, Ok(("cpu", "libcuda"))),
            ("", &[(CVD, "0")], false, NoLibrary, Err((10, "libcuda.so.1"))),
            ("", &[(CVD, "0")], false, Code(100), Err((10, "100"))),
            ("", &[(CVD, "GPU-1234")], false, Code(34), Err((10, "34"))),
            ("", &[(CVD, "MIG-1234")], false, Code(100), Err((10, "100"))),
            ("", &[(CVD, "1")], false, Two, Ok(("cuda:0", ""))),
            ("", &[(NVD, "0,1")], false, NoLibrary, Err((10, "NVIDIA_VISIBLE_DEVICES"))),
            ("", &[(NVD, "GPU-1234")], false, Code(100), Err((10, "100"))),
            ("", &[(NVD, "0:1")], false, NoLibrary, Err((10, "libcuda"))),
            ("", &[(NVD, "all")], false, NoLibrary, Ok(("cpu", "libcuda"))),
            ("", &[(NVD, "void")], false, Code(100), Ok(("cpu", "sees none"))),
            ("", &[(NVD, "none")], false, NoLibrary, Ok(("cpu", "libcuda"))),
            ("", &[(NVD, "")], false, NoLibrary, Ok(("cpu", "libcuda"))),
            ("", &[(CVD, "0")], false, NotBuilt, Err((9, "no CUDA"))),
        ];
        let wrong: Vec<String> = rows.iter().filter_map(|&(r, e, n, d, x)| check(r, e, n, d, x)).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
