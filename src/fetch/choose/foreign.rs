//! Files that hoist's own readers never need, by their names: rows of a pattern and what it is.

use crate::open::choose;

/// How a row looks at a name.
enum At {
    /// The first folder of the path.
    Top(&'static str),
    /// The beginning of any folder of the path.
    Folder(&'static str),
    /// The end of the file's name, letters in any case.
    End(&'static str),
    /// Anywhere in the file's name, letters in any case.
    In(&'static str),
    /// The beginning of the file's name.
    Begin(&'static str),
    /// The beginning of the name of a file that has an extension of weights.
    State(&'static str),
}

use At::{Begin, End, Folder, In, State, Top};

const TRAINING: &str = "training state";
const ONNX: &str = "ONNX";
const TENSORFLOW: &str = "TensorFlow";
const COREML: &str = "Core ML";

#[rustfmt::skip]
const ROWS: &[(At, &str)] = &[
    (Top("original/"),            "Meta's original files"),
    (Top("metal/"),               "for Metal"),
    (Top("coreml/"),              COREML),
    (Top("openvino/"),            "OpenVINO"),
    (Top("onnx/"),                ONNX),
    (Folder("checkpoint-"),       TRAINING),
    (Folder("global_step"),       TRAINING),
    (In(".onnx"),                 ONNX),
    (End(".h5"),                  TENSORFLOW),
    (End(".keras"),               TENSORFLOW),
    (End(".tflite"),              TENSORFLOW),
    (End("saved_model.pb"),       TENSORFLOW),
    (In(".ckpt.data-"),           TENSORFLOW),
    (End(".ckpt.index"),          TENSORFLOW),
    (End(".ckpt.meta"),           TENSORFLOW),
    (End(".msgpack"),             "Flax"),
    (In(".msgpack."),             "Flax"),
    (End(".ot"),                  "rust-bert"),
    (End(".mlmodel"),             COREML),
    (Begin("openvino_"),          "OpenVINO"),
    (End(".engine"),              "TensorRT"),
    (End(".trt"),                 "TensorRT"),
    (Begin("events.out.tfevents"), TRAINING),
    (Begin("trainer_state.json"), TRAINING),
    (State("training_args"),      TRAINING),
    (State("trainer_state"),      TRAINING),
    (State("optimizer"),          TRAINING),
    (State("scheduler"),          TRAINING),
    (State("rng_state"),          TRAINING),
    (State("random_states"),      TRAINING),
    (State("scaler"),             TRAINING),
    (State("zero_pp_rank"),       TRAINING),
    (State("mp_rank"),            TRAINING),
    (Begin("imatrix"),            "importance matrices"),
];

/// Extensions under which trainers save their state.
const STATE: &[&str] = &[".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".distcp"];

/// Why a file stays out whatever else there is.
pub(super) fn why(path: &str) -> Option<&'static str> {
    let folder = super::folder_of(path);
    let name = super::file_of(path);
    let lower = name.to_ascii_lowercase();
    let row = ROWS.iter().find(|(at, _)| match at {
        Top(top) => folder.starts_with(top),
        // Core ML keeps a model as a folder of its own.
        Folder(start) => folder.split('/').any(|f| f.starts_with(start)),
        End(end) => lower.ends_with(end),
        In(part) => lower.contains(part),
        Begin(start) => name.starts_with(start),
        State(start) => name.starts_with(start) && STATE.iter().any(|x| lower.ends_with(x)),
    });
    let package = || folder.split('/').any(|f| f.ends_with(".mlpackage") || f.ends_with(".mlmodelc"));
    row.map(|(_, why)| *why).or_else(|| package().then_some(COREML))
}

/// Beginnings of the names that a whole model has in PyTorch's form.
const MODEL: &[&str] = &["pytorch_model", "diffusion_pytorch_model", "model.", "model-", "consolidated"];

/// Whether a PyTorch file is called as a whole model is.
pub(super) fn is_model(name: &str) -> bool {
    choose::standing(name).is_some() && MODEL.iter().any(|start| name.starts_with(start))
}
