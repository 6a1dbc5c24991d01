//! `hoist doctor`: arguments and output; the work is the library's.

use super::model::Reach;
use super::output::Out;
use super::progress::Watch;
use super::{Common, model_text, signals};
use hoist::doctor::{self, Diagnosis, Gpu, Measured, Options, Way};
use hoist::sink::device::{Device, DeviceSpec};
use hoist::text::{Shown, bytes, rate};
use hoist::{Error, Result};
use serde_json::{Value, json};
use std::ffi::OsString;

/// The arguments of `hoist doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A model, or a path to examine [default: the Hugging Face cache, else the current directory]. Where there is no
    /// model to read, a sample of up to 128 MiB is written there for the time of the measurement
    #[arg(value_name = "MODEL_OR_PATH")]
    target: Option<OsString>,
    /// The device that a load would go to: cpu, cuda:N or cuda:GPU-uuid [default: cuda:0, else cpu]
    #[arg(long, value_name = "DEVICE", env = "HOIST_DEVICE", hide_env_values = true)]
    device: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

/// Runs the command. What a load would fail with is shown in its place, and is the command's error after all the rest.
pub(crate) fn run(args: Args, common: &Common) -> Result<()> {
    let options = Options {
        target: args.target.as_deref().map(model_text).transpose()?.map(str::to_owned),
        device: args.device.as_deref().map(str::parse::<DeviceSpec>).transpose()?,
        open: args.reach.options(),
        threads: common.threads.map(std::num::NonZeroUsize::get),
        #[cfg(feature = "hub")]
        ask_hub: !args.reach.offline && !hoist::source::hub::token::is_offline(|name| std::env::var_os(name)),
        #[cfg(not(feature = "hub"))]
        ask_hub: false,
    };
    let cancel = signals::cancelled();
    let job = doctor::doctor(options);
    Watch::new(common, "doctor").follow(&job, cancel, false);
    let found = job.wait().map_err(|e| if signals::received().is_some() { signals::stopped() } else { e })?;
    let mut out = Out::stdout();
    if common.json {
        out.json("hoist.doctor/1", document(&found))?;
    } else {
        lines(&found).iter().try_for_each(|line| out.line(line))?;
    }
    out.finish()?;
    found.failure.map_or(Ok(()), Err)
}

/// Figures of a smaller file are those of a processor's cache and of single requests.
const SMALL_BYTES: u64 = 32 << 20;

/// Memory, as a person counts it: `139.8 GiB`.
fn memory(n: u64) -> String {
    match n {
        n if n >= 1 << 30 => format!("{:.1} GiB", n as f64 / f64::from(1 << 30)),
        n => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
    }
}

fn speed(bytes_per_second: f64) -> String {
    rate(bytes_per_second as u64, 1.0)
}

fn seconds(s: f64) -> String {
    match s {
        s if s >= 9.95 => format!("{s:.0} s"),
        s if s >= 0.995 => format!("{s:.1} s"),
        s if s >= 0.0995 => format!("{s:.2} s"),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// The diagnosis for a person: a line a fact.
fn lines(d: &Diagnosis) -> Vec<String> {
    let mut lines = Vec::new();
    for gpu in &d.gpus {
        lines.push(gpu_line(gpu, d));
    }
    if let Some(fault) = &d.driver_fault {
        lines.push(format!("gpu      {}", Shown(&fault.message)));
        lines.extend(fault.cause.as_ref().map(|c| format!("         {c}")));
        lines.extend(fault.hint.as_ref().map(|h| format!("         hint: {h}")));
    } else if d.gpus.is_empty() {
        lines.push(format!("gpu      none: {}", d.no_gpu.as_deref().unwrap_or("libcuda.so.1 not found")));
    }
    lines.push(pinned_line(d));
    lines.push(storage_line(d));
    if let Some(model) = &d.model {
        let files =
            if model.file_count == 1 { "1 file".into() } else { format!("{} files", model.file_count) };
        let cached = match model.cached_fraction {
            Some(fraction) => format!("page cache {:.0} %", fraction * 100.0),
            None => "page cache: the system does not say".into(),
        };
        lines.push(format!(
            "model    {}  {} in {files}   {cached}",
            Shown(&model.name),
            bytes(model.size_bytes)
        ));
    }
    let host = &d.host;
    let mut facts = vec![host.memory_bytes.map_or("size unknown".into(), memory)];
    facts.extend(host.available_bytes.map(|n| format!("{} available", memory(n))));
    facts.push(host.cgroup_bytes.map_or("no cgroup limit".into(), |n| format!("cgroup limit {}", memory(n))));
    facts.push(if host.core_count == 1 { "1 core".into() } else { format!("{} cores", host.core_count) });
    facts.extend(host.huge_pages.as_ref().map(|h| format!("huge pages: {}", Shown(h))));
    lines.push(format!("memory   {}", facts.join(", ")));
    #[cfg(feature = "hub")]
    lines.extend(d.hub.as_ref().map(hub_line));
    lines.push(verdict(d));
    lines
}

#[cfg(feature = "hub")]
fn hub_line(hub: &doctor::HubFacts) -> String {
    let answer = match &hub.answer {
        Ok((time, status)) if *status < 500 => format!("answered in {}", seconds(*time)),
        Ok((time, status)) => format!("answered in {} with status {status}", seconds(*time)),
        Err(reason) => Shown(reason).to_string(),
    };
    let token = match &hub.token_from {
        Ok(None) => "no token".to_owned(),
        Ok(Some(place)) => format!("a token from {}", Shown(place)),
        Err(reason) => format!("no token: {}", Shown(reason)),
    };
    format!("hub      {}: {answer}   {token}", Shown(&hub.host))
}

fn gpu_line(gpu: &Gpu, d: &Diagnosis) -> String {
    let mut facts = vec![gpu.ordinal.to_string(), Shown(&gpu.name).to_string()];
    let chosen = d.device == Some(Device::Cuda(gpu.ordinal));
    let free = d.pinned.as_ref().filter(|_| chosen).and_then(|p| p.as_ref().ok()?.free_bytes);
    facts.push(match free {
        Some(free) => format!("{} ({} free)", memory(gpu.memory_bytes), memory(free)),
        None => memory(gpu.memory_bytes),
    });
    facts.extend(gpu.integrated.then(|| "shares the host's memory".to_owned()));
    let driver = gpu.driver_version.as_ref().map(|v| format!("driver {}, ", Shown(v))).unwrap_or_default();
    facts.push(format!("{driver}CUDA {}", gpu.cuda_version));
    facts.push(match &gpu.link {
        None => "PCIe unknown".to_owned(),
        Some(link) => {
            let text = |(generation, lanes): &(String, u32)| format!("PCIe {generation} x{lanes}");
            match &link.max {
                max if *max == link.current => text(max),
                max => format!("{} (now {})", text(max), text(&link.current)),
            }
        }
    });
    facts.extend(gpu.link.as_ref().and_then(|l| l.numa_node).map(|n| format!("NUMA {n}")));
    facts.push(format!("{}  {}", gpu.uuid, gpu.pci_id));
    format!("gpu      {}", facts.join("  "))
}

fn pinned_line(d: &Diagnosis) -> String {
    let memlock = d.memlock_bytes.map_or("unlimited".to_owned(), memory);
    let facts = match &d.pinned {
        None if d.device.is_none() && !d.gpus.is_empty() => "not measured: no GPU was chosen".to_owned(),
        None => "no GPU to pin memory for".to_owned(),
        Some(Err(reason)) => reason.clone(),
        Some(Ok(pinned)) => {
            let speed = match &pinned.bytes_per_second {
                Ok(rate) => format!("{} host to device", speed(*rate)),
                Err(reason) => format!("not measured: {reason}"),
            };
            let registered = match &pinned.refused {
                None => "yes".to_owned(),
                Some(reason) => format!("no ({reason})"),
            };
            format!(
                "{speed} ({} ring)     registered memory: {registered}     opened in {}",
                memory(pinned.ring_bytes),
                seconds(pinned.open_seconds)
            )
        }
    };
    format!("pinned   {facts}     memlock: {memlock}")
}

fn storage_line(d: &Diagnosis) -> String {
    let s = &d.storage;
    let mut facts = Vec::new();
    facts.push(match &s.file_system {
        None => "file system unknown".to_owned(),
        Some(f) => match &f.device {
            Some(device) => format!("{} on {}", Shown(&f.kind), Shown(device)),
            None => Shown(&f.kind).to_string(),
        },
    });
    if s.sample_bytes == 0 {
        let reason = s.direct.as_ref().err().map_or("not measured", String::as_str);
        facts.push(Shown(reason).to_string());
    } else {
        let figure = |name: &str, measured: &Measured, unit: &str| match measured {
            Ok(rate) => format!("{name} {}{unit}", speed(*rate)),
            Err(reason) => format!("{name}: {}", Shown(reason)),
        };
        match &s.direct_align_bytes {
            Ok(align) => {
                facts.push(figure("direct", &s.direct, ""));
                facts.push(figure("cached", &s.cached_per_core, " per core"));
                facts.push(format!("O_DIRECT {align}-aligned"));
            }
            Err(reason) => {
                facts.push(figure("cached", &s.cached_per_core, " per core"));
                facts.push(format!("no direct reads ({})", Shown(reason)));
            }
        }
    }
    if (1..SMALL_BYTES).contains(&s.sample_bytes) {
        facts.push(format!("(in only {})", bytes(s.sample_bytes)));
    }
    facts.push(match &s.io_uring {
        Ok(()) if s.registered_buffers => "io_uring: yes".to_owned(),
        Ok(()) => "io_uring: yes, without registered buffers".to_owned(),
        Err(reason) => format!("io_uring: no ({})", Shown(reason)),
    });
    if s.sample_bytes > 0 {
        facts.push(match s.way {
            Way::Buffered if s.network => "→ page cache, many readers".to_owned(),
            way => format!("→ {}", way.name()),
        });
    }
    format!("storage  {}", facts.join("   "))
}

/// What a load should take and what limits it.
fn verdict(d: &Diagnosis) -> String {
    let f = &d.forecast;
    let what = match &d.model {
        Some(model) => format!("{} ({})", Shown(&model.name), bytes(f.size_bytes)),
        None => "A 16 GB model".to_owned(),
    };
    let Some(device) = d.device else {
        return format!("{what} does not load here: the error says why.");
    };
    let free = d.pinned.as_ref().and_then(|p| p.as_ref().ok()?.free_bytes);
    if let (Some(free), Some(_)) = (free.filter(|&n| n < f.size_bytes), &d.model) {
        return format!(
            "{what} does not fit {device}, which has {} free: see `hoist inspect --fit {device}`.",
            bytes(free)
        );
    }
    let Some((hot, hot_limit)) = f.hot else {
        return "What a load takes here is not known: see what was not measured.".to_owned();
    };
    let cold = match f.cold {
        Some((cold, _)) => format!(", cold in {}", seconds(cold)),
        None => String::new(),
    };
    let now = f.now_seconds.map(|s| format!(", as it is now in {}", seconds(s))).unwrap_or_default();
    let limits = match f.cold {
        Some((_, limit)) if limit != hot_limit => {
            format!("What limits a hot load: {}; a cold one: {}.", hot_limit.name(), limit.name())
        }
        Some(_) => format!("What limits both: {}.", hot_limit.name()),
        None => format!("What limits it: {}.", hot_limit.name()),
    };
    let way = if device == Device::Cpu { "map" } else { "load" };
    format!("{what} should {way} to {device} hot in {}{cold}{now}. {limits}", seconds(hot))
}

fn measured(measured: &Measured) -> Value {
    match measured {
        Ok(rate) => json!({ "bytes_per_second": rate }),
        Err(reason) => json!({ "bytes_per_second": null, "reason": reason }),
    }
}

/// The diagnosis for a program.
fn document(d: &Diagnosis) -> Value {
    let link = |gpu: &Gpu| {
        gpu.link.as_ref().map(|l| {
            json!({
                "generation": l.current.0, "lanes": l.current.1,
                "generation_max": l.max.0, "lanes_max": l.max.1, "numa_node": l.numa_node,
            })
        })
    };
    let gpu = |gpu: &Gpu| {
        json!({
            "ordinal": gpu.ordinal, "name": gpu.name, "uuid": gpu.uuid, "pci": gpu.pci_id,
            "compute_capability": gpu.compute_capability, "memory_bytes": gpu.memory_bytes,
            "integrated": gpu.integrated, "driver_version": gpu.driver_version, "cuda_version": gpu.cuda_version,
            "pcie": link(gpu), "emulated": gpu.emulated,
        })
    };
    let pinned = d.pinned.as_ref().map(|pinned| match pinned {
        Ok(p) => json!({
            "host_to_device": measured(&p.bytes_per_second), "ring_bytes": p.ring_bytes,
            "registered_bytes": p.registered_bytes, "refused": p.refused, "free_bytes": p.free_bytes,
            "open_seconds": p.open_seconds,
        }),
        Err(reason) => json!({ "reason": reason }),
    });
    let s = &d.storage;
    let storage = json!({
        "path": s.path,
        "file_system": s.file_system.as_ref().map(|f| f.kind.as_str()),
        "device": s.file_system.as_ref().and_then(|f| f.device.as_deref()),
        "network": s.network,
        "direct_align_bytes": s.direct_align_bytes.as_ref().ok(),
        "no_direct_because": s.direct_align_bytes.as_ref().err(),
        "io_uring": s.io_uring.is_ok(),
        "no_io_uring_because": s.io_uring.as_ref().err(),
        "registered_buffers": s.registered_buffers,
        "sample_bytes": s.sample_bytes,
        "direct": measured(&s.direct),
        "cached_per_core": measured(&s.cached_per_core),
        "cached": measured(&s.cached_all),
        "mapped": measured(&s.mapped),
        "path_taken": s.way.name(),
    });
    let stage =
        |stage: Option<(f64, doctor::Limit)>| stage.map(|(s, l)| json!({ "seconds": s, "limit": l.name() }));
    #[cfg(not(feature = "hub"))]
    let hub = Value::Null;
    #[cfg(feature = "hub")]
    let hub = d.hub.as_ref().map_or(Value::Null, |hub| {
        let (answer, token) = (hub.answer.as_ref(), hub.token_from.as_ref());
        json!({
            "host": hub.host, "answers": answer.is_ok(),
            "seconds": answer.ok().map(|a| a.0), "status": answer.ok().map(|a| a.1), "reason": answer.err(),
            "token_from": token.ok().and_then(Option::as_ref), "no_token_because": token.err(),
        })
    });
    json!({
        "device": d.device.map(|d| d.to_string()),
        "gpus": d.gpus.iter().map(gpu).collect::<Value>(),
        "no_gpu_because": d.no_gpu,
        "driver_fault": d.driver_fault.as_ref().map(|f| {
            json!({"code": f.code, "name": f.name, "message": f.message, "cause": f.cause, "hint": f.hint})
        }),
        "pinned": pinned,
        "memlock_bytes": d.memlock_bytes,
        "storage": storage,
        "model": d.model.as_ref().map(|m| {
            json!({
                "name": m.name, "size_bytes": m.size_bytes, "files": m.file_count,
                "page_cache_fraction": m.cached_fraction,
            })
        }),
        "host": {
            "memory_bytes": d.host.memory_bytes, "available_bytes": d.host.available_bytes,
            "cgroup_limit_bytes": d.host.cgroup_bytes, "cores": d.host.core_count, "huge_pages": d.host.huge_pages,
        },
        "hub": hub,
        "forecast": {
            "size_bytes": d.forecast.size_bytes, "hot": stage(d.forecast.hot), "cold": stage(d.forecast.cold),
            "now_seconds": d.forecast.now_seconds,
        },
        "error": d.failure.as_ref().map(Error::to_string),
    })
}
