//! From the name of a model to its table: what is chosen, what is refused, and with which exit code.

use crate::naive::testdata;
use hoist::checkpoint::Container;
use hoist::open::{Model, Options, open};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A safetensors file of one-byte tensors.
fn weights<S: AsRef<str>>(names: &[S]) -> Vec<u8> {
    let entries = names.iter().enumerate().map(|(i, n)| {
        let name = serde_json::to_string(n.as_ref()).unwrap();
        format!("{name}:{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{i},{}]}}", i + 1)
    });
    let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend((0..names.len()).map(|i| i as u8));
    bytes
}

/// An index that sends each tensor to a file.
fn index(map: &[(&str, &str)]) -> Vec<u8> {
    let map: BTreeMap<&str, &str> = map.iter().copied().collect();
    serde_json::to_vec(&serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map})).unwrap()
}

/// A temporary directory that is filled by path.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Tree {
        Tree(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Tree {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    fn link(&self, name: &str, target: &str) -> &Tree {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }
}

/// Options with which nothing outside a test's folder is looked at.
fn options() -> Options {
    Options { hub_cache: Some("/nonexistent".into()), offline: true, ..Options::default() }
}

fn opened(model: &str) -> hoist::Result<Model> {
    open(model, &options())
}

fn files(model: &Model) -> Vec<&str> {
    model.table.files.iter().map(|f| f.name.as_str()).collect()
}

/// Compares with the file names expected, or with the exit code and a part of the message.
fn expect(what: &str, got: hoist::Result<Model>, expected: Result<&[&str], (u8, &str)>) {
    match (got, expected) {
        (Ok(model), Ok(names)) => {
            assert_eq!(files(&model), names, "{what}");
            assert_eq!(model.files.len(), names.len(), "{what}");
            for (file, reference) in model.files.iter().zip(&model.table.files) {
                assert_eq!(file.size_bytes(), reference.size_bytes, "{what}");
            }
        }
        (Err(e), Err((code, said))) => {
            assert!(
                e.kind().exit_code() == code && e.to_string().contains(said),
                "{what}: {code} {said:?}, got {e}"
            );
        }
        (Ok(model), Err(expected)) => panic!("{what}: opened {:?}, expected {expected:?}", files(&model)),
        (Err(e), Ok(names)) => panic!("{what}: {e}, expected {names:?}"),
    }
}

#[test]
fn a_sharded_directory() {
    let directory = testdata("rustdoc-llama-6m");
    let first = directory.join("model-00001-of-00003.safetensors");
    for path in [directory.clone(), directory.join("model.safetensors.index.json")] {
        let model = opened(path.to_str().unwrap()).unwrap();
        assert_eq!(model.files.len(), 3);
        assert_eq!(model.table.tensors.len(), 48);
        assert_eq!(model.table.totals().elements, 6_032_128);
        assert_eq!(model.table.totals().size_bytes, 12_064_256);
        assert!(model.table.notes.is_empty(), "{:?}", model.table.notes);
        assert!(model.table.files.iter().all(|f| f.container == Container::Safetensors));
        assert!(model.entries.iter().any(|e| e.name == "config.json"));
        assert_eq!(
            model.place.open("config.json").unwrap().size_bytes(),
            model.entries.iter().find(|e| e.name == "config.json").unwrap().size_bytes
        );
    }
    let shard = opened(first.to_str().unwrap()).unwrap();
    assert_eq!(
        shard.table.notes,
        ["model-00001-of-00003.safetensors: is shard 1 of 3; name the folder to open all of them"]
    );
}

/// Every file holds one tensor, named after itself, whatever its extension: content decides how it is read, and only the
/// choice is tested here.
#[test]
fn what_a_directorys_weights_are() {
    type Expected<'a> = Result<&'a [&'a str], (u8, &'a str)>;
    let two = (2, "holds several weights files");
    let gguf = (2, "holds several GGUF models");
    let rows: &[(&[&str], &str, Expected<'_>)] = &[
        (&["model.safetensors", "pytorch_model.bin", "m-Q8_0.gguf"], "", Ok(&["model.safetensors"])),
        (&["pytorch_model.bin", "m-Q8_0.gguf"], "", Ok(&["pytorch_model.bin"])),
        (&["m-Q8_0.gguf", "config.json"], "", Ok(&["m-Q8_0.gguf"])),
        (&["model.safetensors", "model.fp16.safetensors"], "", Ok(&["model.safetensors"])),
        (&["model.safetensors", "other.safetensors"], "", Ok(&["model.safetensors"])),
        (
            &[
                "diffusion_pytorch_model.fp16.safetensors",
                "diffusion_pytorch_model.safetensors",
                "diffusion_pytorch_model.non_ema.safetensors",
            ],
            "",
            Ok(&["diffusion_pytorch_model.safetensors"]),
        ),
        (&["consolidated.safetensors", "model.safetensors"], "", Ok(&["model.safetensors"])),
        (&["consolidated.safetensors", "x.safetensors"], "", Ok(&["x.safetensors"])),
        (&["consolidated.safetensors", "params.json"], "", Ok(&["consolidated.safetensors"])),
        (&["consolidated.00.pth", "params.json"], "", Ok(&["consolidated.00.pth"])),
        (
            &["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "",
            Ok(&["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        ),
        (
            &[
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "consolidated.safetensors",
            ],
            "",
            Ok(&["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
        ),
        (
            &["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "training_args.bin"],
            "",
            Ok(&["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]),
        ),
        (
            &["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "m-00001-of-00003.safetensors"],
            "",
            Err(two),
        ),
        (
            &["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"],
            "",
            Ok(&["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"]),
        ),
        (
            &["m-00001-of-00002.fp16.safetensors", "m-00002-of-00002.fp16.safetensors", "m.safetensors"],
            "",
            Ok(&["m.safetensors"]),
        ),
        (&["sd_xl_base_1.0.safetensors"], "", Ok(&["sd_xl_base_1.0.safetensors"])),
        (&["x.fp16.safetensors"], "", Ok(&["x.fp16.safetensors"])),
        (&["a.safetensors", "b.safetensors"], "", Err(two)),
        (&["a.pt", "b.pth"], "", Err(two)),
        (
            &["model.safetensors", "adapter_model.safetensors", "adapter_config.json"],
            "",
            Ok(&["model.safetensors"]),
        ),
        (&["adapter_model.safetensors", "adapter_config.json"], "", Ok(&["adapter_model.safetensors"])),
        (&["adapter_model.bin", "adapter_config.json", "training_args.bin"], "", Ok(&["adapter_model.bin"])),
        (&["optimizer.pt", "scheduler.pt", "rng_state_0.pth"], "", Err((3, "holds no weights"))),
        (&[], "", Err((3, "holds no weights: no safetensors, PyTorch or GGUF file\n  the folder is empty"))),
        (&["m-Q4_K_M.gguf", "m-Q8_0.gguf"], "", Err(gguf)),
        (&["m-Q4_K_M.gguf", "mmproj-F16.gguf", "imatrix.gguf"], "", Ok(&["m-Q4_K_M.gguf"])),
        (&["m-Q4_K_M.gguf", "m-Q8_0.gguf", "model.safetensors"], ":Q8_0", Ok(&["m-Q8_0.gguf"])),
        (&["m-Q4_K_M.gguf", "m-Q8_0.gguf"], ":q4_k_m", Ok(&["m-Q4_K_M.gguf"])),
        (&["m-Q4_K_M.gguf", "m-Q8_0.gguf"], ":Q5_K_M", Err((3, "holds no quantisation `Q5_K_M`\n  Q4_K_M "))),
        (&["m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf"], ":Q4_K_XL", Ok(&["m-UD-Q4_K_XL.gguf"])),
        (
            &["a-Q8_0.gguf", "b-Q8_0.gguf"],
            ":Q8_0",
            Err((2, "holds several GGUF models of quantisation `Q8_0`")),
        ),
        (&["model.safetensors"], ":Q8_0", Err((3, "holds no GGUF file, so no quantisation `Q8_0`"))),
        (
            &["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"],
            "",
            Ok(&["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]),
        ),
        (
            &["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q4_0.gguf"],
            ":Q8_0",
            Ok(&["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]),
        ),
        (&["m-Q8_0-00002-of-00003.gguf"], "", Err((3, "`m-Q8_0-00001-of-00003.gguf` is not there"))),
        (
            &["m-1-of-2.safetensors", "m-2-of-2.safetensors"],
            "",
            Ok(&["m-1-of-2.safetensors", "m-2-of-2.safetensors"]),
        ),
        (
            &["m-1-of-00002.safetensors", "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"],
            "",
            Err(two),
        ),
        (&["Q8_0/m-00001-of-00001.gguf", "BF16/m.gguf", "README.md"], ":BF16", Ok(&["BF16/m.gguf"])),
        (&["Q8_0/m-00001-of-00001.gguf", "BF16/m.gguf", "README.md"], "", Err(gguf)),
        (&["Q8_0/m.gguf", "README.md"], "", Ok(&["Q8_0/m.gguf"])),
    ];
    for (names, suffix, expected) in rows {
        let tree = Tree::new();
        std::fs::create_dir(tree.path("m")).unwrap();
        for name in *names {
            tree.write(&format!("m/{name}"), weights(&[name]));
        }
        expect(&format!("{names:?}{suffix}"), opened(&format!("{}{suffix}", tree.text("m"))), *expected);
    }
}

#[test]
fn indexes_of_any_name() {
    let (plain, variant) =
        (["s-1.safetensors", "s-2.safetensors"], ["s-1.fp16.safetensors", "s-2.fp16.safetensors"]);
    for (name, shards, others) in [
        ("model.safetensors.index.json", plain, &["model.safetensors", "x.safetensors.index.json"][..]),
        (
            "diffusion_pytorch_model.safetensors.index.json",
            plain,
            &["diffusion_pytorch_model.fp16.safetensors"],
        ),
        (
            "x.safetensors.index.json",
            plain,
            &["x.fp16.safetensors", "x.safetensors.index.fp16.json", "consolidated.safetensors.index.json"],
        ),
        ("x.safetensors.index.fp16.json", variant, &["config.json"]),
        ("x.fp16.safetensors.index.json", variant, &["config.json"]),
        (
            "consolidated.safetensors.index.json",
            ["consolidated-1.safetensors", "consolidated-2.safetensors"],
            &["config.json"],
        ),
    ] {
        let tree = Tree::new();
        tree.write(name, index(&[("a", shards[0]), ("b", shards[1])]));
        tree.write(shards[0], weights(&["a"])).write(shards[1], weights(&["b"]));
        others.iter().for_each(|other| {
            tree.write(other, "stale");
        });
        expect(name, opened(&tree.text("")), Ok(&shards));
        expect(name, opened(&tree.text(name)), Ok(&shards));
    }
}

#[test]
fn shards_may_lie_in_folders() {
    let tree = Tree::new();
    tree.write("model.safetensors.index.json", index(&[("a", "x/1.safetensors"), ("b", "y/1.safetensors")]));
    tree.write("x/1.safetensors", weights(&["a"])).write("y/1.safetensors", weights(&["b"]));
    assert_eq!(files(&opened(&tree.text("")).unwrap()), ["x/1.safetensors", "y/1.safetensors"]);
}

#[test]
fn many_shards_and_long_headers() {
    let tree = Tree::new();
    let names = |shard: usize| (0..20).map(|n| format!("{shard}.{n}")).collect::<Vec<_>>();
    let file = |shard: usize| format!("model-{:05}-of-00120.safetensors", shard + 1);
    let mut map = Vec::new();
    for shard in 0..120 {
        tree.write(&file(shard), weights(&names(shard)));
        map.extend(names(shard).into_iter().map(|n| (n, file(shard))));
    }
    let pairs: Vec<(&str, &str)> = map.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    tree.write("model.safetensors.index.json", index(&pairs));
    let model = opened(&tree.text("")).unwrap();
    assert_eq!((model.files.len(), model.table.tensors.len()), (120, 2400));
    assert!(model.table.tensors.is_sorted_by_key(|t| t.at.span.file), "tensors come in the order of files");

    // The first read does not reach the end of this header.
    let names: Vec<String> = (0..20_000).map(|n| format!("tensor.{n}")).collect();
    tree.write("long.safetensors", weights(&names));
    assert_eq!(opened(&tree.text("long.safetensors")).unwrap().table.tensors.len(), 20_000);
}

#[test]
fn names_that_are_no_model() {
    let tree = Tree::new();
    tree.write("dir/model.safetensors", weights(&["a"])).link("dangling", "nowhere");
    std::fs::create_dir(tree.path("empty")).unwrap();
    let far = |is_built| match is_built {
        true => (3, "lies beyond the network, which may not be used"),
        false => (9, "is not enabled in this build of hoist"),
    };
    for (model, code, said) in [
        ("", 2, "the name of the model is empty"),
        (&tree.text("nothing"), 3, "no such file or folder, and no repo of the cache"),
        (&tree.text("nothing:Q4_K_M"), 3, "no such file or folder"),
        (&tree.text("dangling"), 3, "is a link to something that is not there"),
        (&tree.text("dir/model.safetensors/x"), 3, "no such file or folder"),
        (&tree.text("dir/config.json"), 3, "no such file or folder"),
        (
            "org/name",
            3,
            "org/name: is not in the cache at `/nonexistent`, nor a file or folder here\n  hint: hoist fetch org/name fetches it",
        ),
        ("org/name@v1:Q4_K_M", 3, "hint: hoist fetch org/name@v1 fetches it"),
        ("hf://org/name", 3, "org/name: is not in the cache"),
        ("hf://org/name/file", 3, "org/name: is not in the cache"),
        ("hf://org/name//file", 2, "names no model of the hub"),
        ("word", 3, "word: no such file or folder"),
        ("a/b/c", 3, "a/b/c: no such file or folder"),
        ("../up", 3, "../up: no such file or folder"),
        ("s3://bucket/model", far(cfg!(feature = "object")).0, far(cfg!(feature = "object")).1),
        ("gs://bucket/model", far(cfg!(feature = "object")).0, far(cfg!(feature = "object")).1),
        ("az://bucket/model", far(cfg!(feature = "object")).0, far(cfg!(feature = "object")).1),
        ("https://host/model.safetensors", far(cfg!(feature = "http")).0, far(cfg!(feature = "http")).1),
        ("ftp://host/x", 2, "begins with a scheme that hoist does not know"),
        ("\0", 3, "no such file or folder"),
        (&"x".repeat(5000), 3, "no such file or folder"),
        ("a\x1b[2Jb", 3, "a\\u{1b}[2Jb: no such file"),
        ("/dev/null", 1, "/dev/null: is not a regular file"),
    ] {
        expect(model, opened(model), Err((code, said)));
    }
    for model in [
        tree.text("dir"),
        tree.text("dir/"),
        tree.text("dir/model.safetensors"),
        format!("file://{}", tree.text("dir")),
    ] {
        let model = opened(&model).unwrap();
        assert!(["dir", "model.safetensors"].contains(&model.name.as_str()), "{}", model.name);
        assert_eq!(model.entries.len(), 1);
    }
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A cache as huggingface_hub makes it: blobs, relative links, a ref.
fn cache() -> Tree {
    let tree = Tree::new();
    let repo = "models--org--name";
    tree.write(&format!("{repo}/refs/main"), COMMIT);
    tree.write(&format!("{repo}/refs/refs/pr/1"), format!("{COMMIT}\n"));
    tree.write(&format!("{repo}/blobs/aaaa"), weights(&["a"]));
    tree.write(&format!("{repo}/blobs/cccc"), "{}");
    tree.link(&format!("{repo}/snapshots/{COMMIT}/model.safetensors"), "../../blobs/aaaa");
    tree.link(&format!("{repo}/snapshots/{COMMIT}/config.json"), "../../blobs/cccc");
    tree
}

fn in_cache(tree: &Tree) -> Options {
    Options { hub_cache: Some(tree.0.path().to_owned()), offline: true, ..Options::default() }
}

#[test]
fn the_hubs_cache_is_read() {
    let tree = cache();
    for model in [
        "org/name",
        "org/name@main",
        "org/name@refs/pr/1",
        &format!("org/name@{COMMIT}"),
        "hf://org/name",
        "hf://org/name@main",
    ] {
        let model = open(model, &in_cache(&tree)).unwrap();
        assert_eq!((model.name.as_str(), model.commit.as_deref()), ("org/name", Some(COMMIT)));
        assert_eq!(files(&model), ["model.safetensors"]);
        assert_eq!(model.entries.len(), 2);
        assert_eq!(model.place.open("config.json").unwrap().size_bytes(), 2);
    }
    // By its path, the cache's links are the cache's too.
    let snapshot = format!("models--org--name/snapshots/{COMMIT}");
    assert_eq!(files(&opened(&tree.text(&snapshot)).unwrap()), ["model.safetensors"]);
    assert_eq!(
        files(&opened(&tree.text(&format!("{snapshot}/model.safetensors"))).unwrap()),
        ["model.safetensors"]
    );

    // Blobs that all repos share: a blob may itself be a link, to the cache's top.
    tree.write("blobs/bb/shared", weights(&["b"]));
    std::fs::remove_file(tree.path("models--org--name/blobs/aaaa")).unwrap();
    tree.link("models--org--name/blobs/aaaa", "../../blobs/bb/shared");
    assert_eq!(open("org/name", &in_cache(&tree)).unwrap().table.tensors[0].name, "b");
}

#[test]
fn a_cache_that_lacks_something_says_what() {
    let zeros = "0".repeat(40);
    type Row<'a> = (&'a str, &'a dyn Fn(&Tree), u8, &'a str);
    let rows: &[Row<'_>] = &[
        ("org/name@v2", &|_| {}, 3, "org/name: revision `v2` is not in the cache at"),
        (&format!("org/name@{zeros}"), &|_| {}, 3, "is not in the cache at"),
        ("org/other", &|_| {}, 3, "org/other: is not in the cache"),
        ("org/name@../../x", &|_| {}, 3, "no such file or folder"),
        (
            "org/name",
            &|t| {
                t.write("models--org--name/refs/main", "../../..");
            },
            1,
            "the ref `main` in the cache holds `../../..` where a commit of 40 hex digits is expected",
        ),
        (
            "org/name",
            &|t| {
                t.write("models--org--name/refs/main", vec![b'a'; 5000]);
            },
            1,
            "where a commit of 40 hex digits is expected",
        ),
        (
            "org/name",
            &|t| std::fs::remove_file(t.path("models--org--name/blobs/aaaa")).unwrap(),
            3,
            "model.safetensors: is a link to a file that is not there",
        ),
        (
            "org/name",
            &|t| {
                std::fs::remove_file(
                    t.path(&format!("models--org--name/snapshots/{COMMIT}/model.safetensors")),
                )
                .unwrap();
                t.write(
                    &format!("models--org--name/trees/{COMMIT}.json"),
                    r#"{"format_version":1,"files":{"model.safetensors":{"size":73},"config.json":{"size":2},"../x":{"size":1}}}"#,
                );
            },
            3,
            "org/name: is in the cache without its weights\n  not fetched: `model.safetensors`\n  hint: hoist fetch org/name fetches it into the cache that hoist reads",
        ),
        (
            "org/name",
            &|t| {
                t.write("models--org--name/blobs/aaaa", &weights(&["a", "b"])[..114]);
            },
            1,
            "\n  the file was probably cut short\n  hint: hoist fetch org/name --require-hash fetches it again",
        ),
        (
            "org/name",
            &|t| {
                let link = t.path(&format!("models--org--name/snapshots/{COMMIT}/model.safetensors"));
                std::fs::remove_file(&link).unwrap();
                std::os::unix::fs::symlink("/etc/hostname", link).unwrap();
            },
            1,
            "model.safetensors: is a link that leads out of the model's folder, to `/etc/hostname`",
        ),
    ];
    for (model, damage, code, said) in rows {
        let tree = cache();
        damage(&tree);
        expect(model, open(model, &in_cache(&tree)), Err((*code, said)));
    }
}

#[test]
fn links_stay_inside_unless_told_otherwise() {
    let tree = Tree::new();
    tree.write("elsewhere/w.safetensors", weights(&["a"])).write("elsewhere/config.json", "{}");
    tree.link("model/model.safetensors", "../elsewhere/w.safetensors")
        .link("model/config.json", "../elsewhere/config.json");
    tree.write("inside/real/w.safetensors", weights(&["a"]))
        .link("inside/model.safetensors", "real/w.safetensors");
    tree.link("linked", "inside").link("named.safetensors", "elsewhere/w.safetensors");

    let out = (1, "model.safetensors: is a link that leads out of the model's folder, to `");
    expect("a link out", opened(&tree.text("model")), Err(out));
    let follow = Options { follow_links: true, ..options() };
    expect("followed", open(&tree.text("model"), &follow), Ok(&["model.safetensors"]));
    expect("a link inside", opened(&tree.text("inside")), Ok(&["model.safetensors"]));
    expect("a folder that is a link", opened(&tree.text("linked")), Ok(&["model.safetensors"]));
    expect("a file that is a link", opened(&tree.text("named.safetensors")), Ok(&["named.safetensors"]));
    // The companions of a file in the folder are bounded too, the named file is not.
    let model = opened(&tree.text("model/model.safetensors")).unwrap();
    assert!(model.place.open("config.json").unwrap_err().to_string().contains("leads out"));
    // A linked folder is not listed either.
    tree.link("model/Q8_0", "../elsewhere");
    assert!(model.place.list("Q8_0").is_err() && model.place.list("..").is_err());
}

#[test]
fn a_pipelines_components_are_groups() {
    let tree = Tree::new();
    let index_json = r#"{"_class_name": "Pipeline", "_diffusers_version": "0.35", "unet": ["diffusers", "UNet"],
        "text_encoder": ["transformers", "CLIP"], "scheduler": ["diffusers", "DDIM"], "safety_checker": [null, null],
        "requires_safety_checker": true}"#;
    tree.write("model_index.json", index_json).write("scheduler/scheduler_config.json", "{}");
    tree.write(
        "unet/diffusion_pytorch_model.safetensors.index.json",
        index(&[("w", "d-1.safetensors"), ("v", "d-2.safetensors")]),
    );
    tree.write("unet/d-1.safetensors", weights(&["w"])).write("unet/d-2.safetensors", weights(&["v"]));
    tree.write("text_encoder/model.safetensors", weights(&["w"]))
        .write("vae/model.safetensors", weights(&["stray"]));
    let model = opened(&tree.text("")).unwrap();
    assert_eq!(
        files(&model),
        ["unet/d-1.safetensors", "unet/d-2.safetensors", "text_encoder/model.safetensors"]
    );
    let names: Vec<_> = model.table.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["unet/w", "unet/v", "text_encoder/w"]);
    // The same weights as one file for other programs do not count; without any component's folder they do.
    tree.write("sd_xl_base_1.0.safetensors", weights(&["x"]));
    assert_eq!(opened(&tree.text("")).unwrap().table.tensors.len(), 3);
    for component in ["unet", "text_encoder", "scheduler"] {
        std::fs::remove_dir_all(tree.path(component)).unwrap();
    }
    assert_eq!(files(&opened(&tree.text("")).unwrap()), ["sd_xl_base_1.0.safetensors"]);
    assert!(model.table.notes.is_empty(), "{:?}", model.table.notes);
}

/// Opens a model in a child process that may hold few files; run by the test below, where the variable is set.
#[test]
fn opens_in_a_child() {
    if let Some(model) = std::env::var_os("HOIST_TEST_OPEN_IN_CHILD") {
        let outcome = opened(Path::new(&model).to_str().unwrap());
        println!(
            "{}",
            outcome.map_or_else(|e| format!("{} {e}", e.kind().exit_code()), |_| "opened".to_string())
        );
    }
}

/// Runs the test above in a child whose limits the shell has set, and returns what it says.
fn open_in_child(limit: &str, model: &Path) -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("ulimit {limit}; exec \"$0\" --exact open::opens_in_a_child --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .env("HOIST_TEST_OPEN_IN_CHILD", model)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn too_many_files_is_said_clearly() {
    let tree = Tree::new();
    let file = |n: usize| format!("model-{n:05}-of-00100.safetensors");
    for n in 1..=100 {
        tree.write(&file(n), weights(&[format!("t{n}")]));
    }
    let said = open_in_child("-n 60", tree.0.path());
    for part in ["5 model-", "may not hold more files open", "hint: ulimit -n"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(open_in_child("-n 200", tree.0.path()).contains("opened"));
}

/// A file of a length that takes no space.
fn sparse(tree: &Tree, name: &str, head: &[u8], size_bytes: u64) {
    tree.write(name, head);
    std::fs::OpenOptions::new().write(true).open(tree.path(name)).unwrap().set_len(size_bytes).unwrap();
}

#[test]
fn large_files_cost_what_their_headers_do() {
    let tree = Tree::new();
    let header = r#"{"far":{"dtype":"F32","shape":[2],"data_offsets":[5368709120,5368709128]},"big":{"dtype":"U8","shape":[5,1073741824],"data_offsets":[0,5368709120]}}"#;
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.extend(header.bytes());
    let size = head.len() as u64 + 5_368_709_128;
    sparse(&tree, "far.safetensors", &head, size);
    let model = opened(&tree.text("far.safetensors")).unwrap();
    assert_eq!(model.table.tensors[0].at.span.end_bytes(), size);

    // Eight shards that each claim the longest header there is: one at a time is read. All eight at once would not
    // fit: the address space also holds the threads' stacks and the allocator's arenas.
    for n in 1..=8 {
        let name = format!("lies/model-{n:05}-of-00008.safetensors");
        sparse(&tree, &name, &100_000_000u64.to_le_bytes(), 4 << 30);
    }
    let said = open_in_child("-v 1200000", &tree.path("lies"));
    assert!(said.contains("1 model-00001-of-00008.safetensors: has a damaged header"), "{said}");
}
