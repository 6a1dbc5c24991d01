//! From the name of a model to its table.

use crate::naive::testdata;
use hoist::checkpoint::Container;
use hoist::open::{Model, Options, open};

fn opened(model: &str) -> hoist::Result<Model> {
    open(model, &Options::default())
}

#[test]
fn a_sharded_directory() {
    let directory = testdata("rustdoc-llama-6m");
    for model in [
        directory.to_str().unwrap().to_string(),
        directory.join("model.safetensors.index.json").to_str().unwrap().to_string(),
    ] {
        let model = opened(&model).unwrap();
        assert_eq!(model.files.len(), 3);
        assert_eq!(model.table.tensors.len(), 48);
        assert_eq!(model.table.totals().elements, 6_032_128);
        assert_eq!(model.table.totals().size_bytes, 12_064_256);
        assert!(model.table.notes.is_empty(), "{:?}", model.table.notes);
        assert!(model.table.files.iter().all(|f| f.container == Container::Safetensors));
        assert!(model.entries.iter().any(|e| e.name == "config.json"));
    }
}
