//! The tiny models of `testdata/families/`, made from their specs: the Rust twin of `write` in `testdata/make/families.py`,
//! where the function that gives each weight its value is defined.

use crate::naive::testdata;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A row of a spec.
pub struct Row {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    scale: f64,
    offset: f64,
}

/// What `spec.json` says.
pub struct Spec {
    pub family: String,
    /// The folder of `testdata/tokenizers/`.
    pub tokenizer: String,
    without: Vec<String>,
    pub rows: Vec<Row>,
}

/// All families, sorted.
pub fn all() -> Vec<String> {
    let entries = std::fs::read_dir(testdata("families")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn spec(family: &str) -> Spec {
    let path = testdata(&format!("families/{family}/spec.json"));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let texts = |v: &serde_json::Value| {
        v.as_array().map_or(Vec::new(), |a| a.iter().map(|s| s.as_str().unwrap().to_string()).collect())
    };
    Spec {
        family: family.to_string(),
        tokenizer: json["tokenizer"].as_str().unwrap().to_string(),
        without: texts(&json["without"]),
        rows: json["tensors"].as_array().unwrap().iter().map(row).collect(),
    }
}

/// `[name, dtype, shape, scale, offset]`.
pub fn row(r: &serde_json::Value) -> Row {
    Row {
        name: r[0].as_str().unwrap().to_string(),
        dtype: r[1].as_str().unwrap().to_string(),
        shape: r[2].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect(),
        scale: r[3].as_f64().unwrap(),
        offset: r[4].as_f64().unwrap(),
    }
}

/// The tensor's bytes, little endian.
pub fn values(row: &Row) -> Vec<u8> {
    let seed = row
        .name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let count: usize = row.shape.iter().product();
    let mut out = Vec::with_capacity(count * 4);
    let mut state = seed;
    for _ in 0..count {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let m = (z >> 40) as i32;
        let x = (m - (1 << 23)) as f32 * 2f32.powi(-23) * row.scale as f32 + row.offset as f32;
        match row.dtype.as_str() {
            "f32" => out.extend(x.to_le_bytes()),
            "bf16" => out.extend(half::bf16::from_f32(x).to_le_bytes()),
            "f16" => out.extend(half::f16::from_f32(x).to_le_bytes()),
            "u8" => out.push((row.offset as i32 + m % row.scale as i32) as u8),
            "f8_e4m3" => out.push((((z >> 63) as u8) << 7) | (m % 127) as u8),
            other => panic!("a spec with dtype {other}"),
        }
    }
    out
}

impl Row {
    fn file_dtype(&self) -> Dtype {
        match self.dtype.as_str() {
            "f32" => Dtype::F32,
            "bf16" => Dtype::BF16,
            "f16" => Dtype::F16,
            "u8" => Dtype::U8,
            _ => Dtype::F8_E4M3,
        }
    }
}

/// Writes `root/FAMILY/`: config, tokenizer, and the weights in two shards with an index.
pub fn write(spec: &Spec, root: &Path) -> PathBuf {
    let out = root.join(&spec.family);
    std::fs::create_dir_all(&out).unwrap();
    let config = testdata(&format!("families/{}/config.json", spec.family));
    std::fs::copy(config, out.join("config.json")).unwrap();
    for entry in std::fs::read_dir(testdata(&format!("tokenizers/{}", spec.tokenizer))).unwrap() {
        let entry = entry.unwrap();
        if !spec.without.iter().any(|w| *w == entry.file_name().to_string_lossy()) {
            std::fs::copy(entry.path(), out.join(entry.file_name())).unwrap();
        }
    }
    let mut map = BTreeMap::new();
    let cut = spec.rows.len().div_ceil(2);
    for (number, rows) in [&spec.rows[..cut], &spec.rows[cut..]].into_iter().enumerate() {
        let file = format!("model-{:05}-of-00002.safetensors", number + 1);
        let data: Vec<Vec<u8>> = rows.iter().map(values).collect();
        let views = rows.iter().zip(&data).map(|(row, bytes)| {
            map.insert(row.name.clone(), file.clone());
            (row.name.as_str(), TensorView::new(row.file_dtype(), row.shape.clone(), bytes).unwrap())
        });
        let meta = HashMap::from([("format".to_string(), "pt".to_string())]);
        let views: Vec<_> = views.collect();
        safetensors::serialize_to_file(views, Some(meta), &out.join(&file)).unwrap();
    }
    let total: usize = spec.rows.iter().map(|r| values(r).len()).sum();
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
    std::fs::write(out.join("model.safetensors.index.json"), index.to_string()).unwrap();
    out
}
