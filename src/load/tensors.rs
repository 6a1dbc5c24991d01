//! What a load gives back: tensors that own their memory, and what is to be said about the load.

use crate::buf::{Arena, Element};
use crate::dtype::DType;
use crate::machine;
use crate::open::Model;
use crate::plan::{Output, Plan};
use crate::source::local::mapped::Mapped;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "cuda")]
use crate::sink::cuda::driver::{DeviceFacts, DeviceMemory};

/// Memory that tensors share; freed with the last of them.
#[derive(Debug, Clone)]
pub(super) enum Memory {
    Nothing,
    Mapped(Arc<Mapped>),
    Host(Arc<Arena>),
    #[cfg(feature = "cuda")]
    Device(Arc<DeviceMemory>),
}

/// A tensor in memory: row-major, without gaps, in this machine's byte order. Its memory lives as long as it does.
#[derive(Debug, Clone)]
pub struct LoadedTensor {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    memory: Memory,
    offset_bytes: u64,
    size_bytes: u64,
}

impl LoadedTensor {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its sizes, outermost first; empty for a scalar. Strides are those of a row-major tensor.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// How many bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes, where the CPU can address them: not on a GPU. A mapped tensor begins wherever it does in the file, so
    /// its first byte may be unaligned for its type.
    pub fn bytes(&self) -> Option<&[u8]> {
        let range = self.offset_bytes..self.offset_bytes + self.size_bytes;
        match &self.memory {
            Memory::Nothing => Some(&[]),
            Memory::Mapped(map) => Some(map.bytes(range)),
            Memory::Host(arena) => crate::buf::usize_range(range).and_then(|r| arena.as_bytes().get(r)),
            #[cfg(feature = "cuda")]
            Memory::Device(_) => None,
        }
    }

    /// The address on the GPU, where it lies on one. Valid as long as this tensor lives.
    pub fn device_address(&self) -> Option<u64> {
        match &self.memory {
            #[cfg(feature = "cuda")]
            Memory::Device(memory) => Some(memory.address() + self.offset_bytes),
            _ => None,
        }
    }

    /// The GPU it lies on, counted after CUDA_VISIBLE_DEVICES.
    pub fn device_ordinal(&self) -> Option<u32> {
        match &self.memory {
            #[cfg(feature = "cuda")]
            Memory::Device(memory) => Some(memory.gpu().facts().ordinal),
            _ => None,
        }
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Loaded {
    /// The tensors, in the order of the model's table; those that are made, in the order in which they would be written.
    pub tensors: Vec<LoadedTensor>,
    /// What is to be said about the load.
    pub report: Report,
}

/// Tensors of one dtype in one vector.
#[derive(Debug)]
pub struct ArenaTensors {
    /// Their type.
    pub dtype: DType,
    /// The memory.
    pub arena: Arena,
    /// Name, shape, and offset in bytes from the arena's first byte.
    pub tensors: Vec<(String, Vec<u64>, u64)>,
}

impl ArenaTensors {
    /// The memory as a vector of `T` without a copy; the index of the arena's first element in it is the second value.
    /// `None` where `T` is not as wide as the dtype.
    pub fn into_vec<T: Element>(self) -> Option<(Vec<T>, usize)> {
        self.arena.into_vec()
    }
}

impl Loaded {
    pub(super) fn new(plan: &Plan, memory_of: impl Fn(&Output) -> (Memory, u64), report: Report) -> Loaded {
        let tensors = plan
            .outputs
            .iter()
            .map(|output| {
                let (memory, offset_bytes) = memory_of(output);
                let Output { name, dtype, shape, size_bytes, .. } = output;
                LoadedTensor {
                    name: name.clone(),
                    dtype: *dtype,
                    shape: shape.clone(),
                    memory,
                    offset_bytes,
                    size_bytes: *size_bytes,
                }
            })
            .collect();
        Loaded { tensors, report }
    }

    /// A load that was only planned.
    pub(super) fn nothing(report: Report) -> Loaded {
        Loaded { tensors: Vec::new(), report }
    }

    /// The tensor of this name. Looks through all of them: whoever wants many makes a map.
    pub fn get(&self, name: &str) -> Option<&LoadedTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Gives the memory away, one arena a dtype. `None` unless the load was to owned host memory and no tensor was
    /// cloned out of it.
    pub fn into_arenas(self) -> Option<Vec<ArenaTensors>> {
        let mut groups: Vec<(Arc<Arena>, ArenaTensors)> = Vec::new();
        for tensor in self.tensors {
            let Memory::Host(arena) = tensor.memory else { return None };
            let place = (tensor.name, tensor.shape, tensor.offset_bytes);
            match groups.iter_mut().find(|(_, group)| group.dtype == tensor.dtype) {
                Some((_, group)) => group.tensors.push(place),
                None => {
                    let nothing = Arena::new(0, 1).ok()?;
                    let group = ArenaTensors { dtype: tensor.dtype, arena: nothing, tensors: vec![place] };
                    groups.push((arena, group));
                }
            }
        }
        let unshared = |(arena, group)| Some(ArenaTensors { arena: Arc::try_unwrap(arena).ok()?, ..group });
        groups.into_iter().map(unshared).collect()
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Whether tensors were cast on the way: then they equal the cast of what was read.
    pub cast: bool,
    /// Tensors that equal what was read. Others are an error, so this is all of them.
    pub tensor_count: usize,
    /// The digest that other loaders can compute too.
    pub digest: String,
}

/// What is to be said about a load.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// Its commit, where it came from the hub's cache.
    pub commit: Option<String>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// `mapped`, `owned` or `device`.
    pub form: &'static str,
    /// Whether tensors were made of what was read, and not taken as they are: quantised on their way.
    pub made: bool,
    /// Why it is the CPU, where nobody asked for that.
    pub fallback_reason: Option<String>,
    /// The GPU.
    #[cfg(feature = "cuda")]
    pub gpu: Option<DeviceFacts>,
    /// Tensors.
    pub tensor_count: usize,
    /// Bytes of the tensors, aliases once.
    pub bytes: u64,
    /// Bytes that moved: none where the files were mapped.
    pub bytes_moved: u64,
    /// Bytes that were made present in a mapped load: all that is read, unless memory was too small.
    pub present_bytes: u64,
    /// Memory for the tensors, padding and staging included.
    pub needed_bytes: u64,
    /// Memory of the device that was free before.
    pub free_bytes: Option<u64>,
    /// Seconds from the first allocation to the last arrival.
    pub seconds: f64,
    /// Seconds on cores in that time, the kernel's included.
    pub cpu_seconds: Option<f64>,
    /// Seconds from the start of the process to the last arrival.
    pub ready_seconds: Option<f64>,
    /// Threads that moved data.
    pub threads: usize,
    /// The fraction of what is read that the page cache held before.
    pub cached_fraction: Option<f64>,
    /// Bytes that the page cache held when their turn came.
    pub cached_bytes: u64,
    /// Bytes read through the page cache that it did not hold, or that could not be asked about.
    pub buffered_bytes: u64,
    /// Bytes read around the page cache.
    pub direct_bytes: u64,
    /// Whether direct reads went through io_uring.
    pub ring: bool,
    /// Host memory that was page-locked.
    pub pinned_bytes: u64,
    /// Device memory taken beyond the tensors' own bytes: padding and staging.
    pub device_extra_bytes: Option<u64>,
    /// What this machine can do, in bytes a second, where that was measured: to a GPU the bandwidth from pinned memory; to
    /// host memory what a short sample of plain reads reached, which a load may well beat.
    pub limit_bytes_per_second: Option<f64>,
    /// Finite values that a cast made infinite (only with saturation: else that is an error).
    pub overflow_count: u64,
    /// What the check found, where one was asked for.
    pub check: Option<Check>,
    /// What a person should know: fallbacks with their reasons.
    pub notes: Vec<String>,
    pub(super) cold: bool,
    /// Bytes read in one piece beyond what is needed: gaps between wanted rows.
    pub read_bytes: u64,
}

impl Report {
    pub(super) fn new(model: &Model, device: &str, plan: &Plan) -> Report {
        Report {
            model: model.name.clone(),
            commit: model.commit.clone(),
            device: device.into(),
            form: "",
            made: false,
            fallback_reason: None,
            #[cfg(feature = "cuda")]
            gpu: None,
            tensor_count: plan.outputs.len(),
            bytes: plan.output_bytes,
            bytes_moved: 0,
            present_bytes: 0,
            needed_bytes: plan.arena_bytes(),
            free_bytes: None,
            seconds: 0.0,
            cpu_seconds: None,
            ready_seconds: None,
            threads: 0,
            cached_fraction: None,
            cached_bytes: 0,
            buffered_bytes: 0,
            direct_bytes: 0,
            ring: false,
            pinned_bytes: 0,
            device_extra_bytes: None,
            limit_bytes_per_second: None,
            overflow_count: 0,
            check: None,
            notes: Vec::new(),
            cold: false,
            read_bytes: plan.read_bytes,
        }
    }

    /// Notes the time since the load began.
    pub(super) fn took(&mut self, started: Instant, cpu: Option<Duration>) {
        self.seconds = started.elapsed().as_secs_f64();
        let spent = machine::cpu_time().zip(cpu).map(|(now, then)| now.saturating_sub(then));
        self.cpu_seconds = spent.map(|d| d.as_secs_f64());
        self.ready_seconds = machine::since_process_start().map(|d| d.as_secs_f64());
    }

    /// The GPU's facts as JSON.
    pub fn gpu_facts(&self) -> Option<serde_json::Value> {
        #[cfg(feature = "cuda")]
        return self.gpu.as_ref().map(|g| {
            serde_json::json!({
                "name": g.name,
                "uuid": g.uuid,
                "pci": g.pci_id,
                "compute_capability": format!("{}.{}", g.compute_capability.0, g.compute_capability.1),
                "memory_bytes": g.memory_bytes,
                "integrated": g.integrated,
                "cuda_version": format!("{}.{}", g.cuda_version / 1000, g.cuda_version % 1000 / 10),
                "emulated": g.emulated,
            })
        });
        #[cfg(not(feature = "cuda"))]
        None
    }

    /// The GPU's name.
    pub fn gpu_name(&self) -> Option<String> {
        #[cfg(feature = "cuda")]
        return self.gpu.as_ref().map(|g| g.name.clone());
        #[cfg(not(feature = "cuda"))]
        None
    }
}
