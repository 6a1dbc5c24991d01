//! Directories and files of other tools that hold a model hoist does not read: each is called by its name, with the tool
//! that exports what hoist reads.

use crate::error::Error;
use crate::source::Entry;

/// How a name is recognised.
enum Sign {
    /// This very name.
    Is(&'static str),
    /// A name that begins so.
    Begins(&'static str),
    /// A name that ends so.
    Ends(&'static str),
}

struct Row {
    signs: &'static [Sign],
    is: &'static str,
    hint: &'static str,
}

use Sign::{Begins, Ends, Is};

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row {
        signs: &[Is("zero_to_fp32.py"), Begins("zero_pp_rank_"), Begins("bf16_zero_pp_rank_"), Begins("global_step")],
        is: "is a DeepSpeed ZeRO checkpoint: each rank's file holds a slice of every tensor",
        hint: "python zero_to_fp32.py . OUT --safe_serialization (DeepSpeed puts the script beside it) joins them",
    },
    Row {
        signs: &[Is("latest_checkpointed_iteration.txt"), Begins("mp_rank_"), Begins("iter_0")],
        is: "is a Megatron checkpoint, cut for its own tensor and pipeline parallelism",
        hint: "Megatron-LM's tools/checkpoint/convert.py, or Megatron Bridge's export_ckpt, writes a Hugging Face folder",
    },
    Row {
        signs: &[Ends(".distcp"), Is(".metadata")],
        is: "is a PyTorch distributed checkpoint (FSDP, DCP)",
        hint: "accelerate merge-weights DIR OUT, or python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR OUT, joins it",
    },
    Row {
        signs: &[Ends(".nemo")],
        is: "is a NeMo archive",
        hint: "NeMo's export (llm.export_ckpt, or the convert_*_nemo_to_hf.py scripts) writes a Hugging Face folder",
    },
    Row {
        signs: &[Is("_CHECKPOINT_METADATA"), Is("_METADATA"), Is("manifest.ocdbt"), Begins("ocdbt.")],
        is: "is an Orbax checkpoint of JAX",
        hint: "the export script of the model's own project (MaxText: llama_mistral_mixtral_orbax_to_hf.py) writes a Hugging Face folder",
    },
    Row {
        signs: &[Ends(".msgpack")],
        is: "holds Flax weights in msgpack",
        hint: "transformers below version 5 reads them with from_pretrained(DIR, from_flax=True); save_pretrained then writes safetensors",
    },
    Row {
        signs: &[Ends(".h5"), Ends(".hdf5"), Ends(".keras")],
        is: "holds Keras or TensorFlow weights",
        hint: "transformers below version 5 reads them with from_pretrained(DIR, from_tf=True); save_pretrained then writes safetensors",
    },
    Row {
        signs: &[Is("saved_model.pb"), Begins("model.ckpt."), Ends(".ckpt.index"), Ends(".data-00000-of-00001")],
        is: "is a TensorFlow checkpoint or SavedModel",
        hint: "the conversion script of the model's family in transformers writes a PyTorch checkpoint",
    },
    Row {
        signs: &[Ends(".onnx")],
        is: "holds an ONNX graph",
        hint: "take the model that it was exported from",
    },
    Row {
        signs: &[Ends(".engine"), Ends(".plan"), Ends(".mlpackage"), Ends(".mlmodel"), Ends(".tflite"), Begins("openvino_model.")],
        is: "holds a compiled model",
        hint: "take the model that it was compiled from",
    },
];

/// The refusal for a name, where it is one of another tool's.
fn recognise(name: &str) -> Option<&'static Row> {
    let shows = |sign: &Sign| match sign {
        Is(exactly) => name == *exactly,
        Begins(with) => name.starts_with(with),
        Ends(with) => name.len() > with.len() && name.ends_with(with),
    };
    ROWS.iter().find(|row| row.signs.iter().any(shows))
}

/// The refusal for a directory, by the rows' order: a DeepSpeed folder may hold what looks like a lesser one.
pub(super) fn of_directory(entries: &[Entry]) -> Option<Error> {
    let found =
        |row: &&Row| entries.iter().any(|e| recognise(&e.name).is_some_and(|r| std::ptr::eq(r, *row)));
    ROWS.iter().find(found).map(error)
}

/// The refusal for a file by its name, for one whose content said nothing.
pub(super) fn of_file(name: &str) -> Option<Error> {
    recognise(name.rsplit('/').next().unwrap_or(name)).map(error)
}

fn error(row: &Row) -> Error {
    Error::unsupported(row.is).hint(row.hint)
}
