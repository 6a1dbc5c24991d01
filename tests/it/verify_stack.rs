//! One layer, against what transformers' own models make of the same numbers (`testdata/make/stack.py`), and the decoder
//! around it.

use candle_core::{D, DType, Device, Tensor};
use hoist::ErrorKind;
use hoist::transform::arch::forward::*;
use hoist::verify::decoder::{Cache, Decoder};
use hoist::verify::stack::{LayerCache, Pass, layer};
use hoist::verify::weights::{Stage, Weights};
use serde_json::Value;
use std::collections::HashMap;

const DEV: Device = Device::Cpu;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/golden/stack.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn crc32(text: &str) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(text.as_bytes());
    u64::from(crc.finalize())
}

/// As `values` in `testdata/make/stack.py`.
fn values(name: &str, shape: &[usize], scale: f32, shift: f32) -> Tensor {
    let seed = crc32(name);
    let count: usize = shape.iter().product();
    let v: Vec<f32> = (0..count as u64)
        .map(|i| {
            let mut h = (i * 2_654_435_761 + seed) & 0xffff_ffff;
            for (by, factor) in [(15, 2_246_822_519u64), (13, 3_266_489_917)] {
                h = ((h ^ (h >> by)) * factor) & 0xffff_ffff;
            }
            h ^= h >> 16;
            let unit = (h >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
            unit * scale + shift
        })
        .collect();
    Tensor::from_vec(v, shape, &DEV).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// A case of the golden file.
struct Case {
    forward: Forward,
    tensors: HashMap<String, Tensor>,
    x: Tensor,
    mask: Option<Tensor>,
    expected: Vec<f32>,
}

const RMS: Norm = Norm { kind: NormKind::Rms, eps: 1e-6 };
const RMS5: Norm = Norm { kind: NormKind::Rms, eps: 1e-5 };
const LAYER5: Norm = Norm { kind: NormKind::Layer, eps: 1e-5 };

const PRE: Norms = Norms {
    attention_in: Some("attn_norm"),
    attention_out: None,
    attention_sum: None,
    mlp_in: Some("ffn_norm"),
    mlp_out: None,
    mlp_sum: None,
};

fn llama() -> Layer {
    Layer {
        norm: RMS,
        norms: PRE,
        residual_scale: 1.0,
        parallel: false,
        attention: Attention {
            heads: 4,
            kv_heads: 2,
            key_dim: 8,
            value_dim: 8,
            projections: Projections::Separate,
            scale: 8f32.powf(-0.5),
            soft_cap: None,
            window: None,
            rope: Some(0),
            head_norm: HeadNorm::None,
            sinks: false,
            temperature: None,
        },
        mlp: Mlp::Dense { gate: Gate::Separate, activation: Activation::Silu },
    }
}

fn experts() -> Experts {
    Experts {
        count: 8,
        used: 3,
        scoring: Scoring::Softmax,
        correction: false,
        groups: None,
        normalise: None,
        scale: 1.0,
        scales_input: false,
        activation: Activation::Silu,
        shared: false,
    }
}

/// How the layer of a case computes.
fn facts(name: &str) -> Layer {
    let mut l = llama();
    let a = &mut l.attention;
    let gelu = |gate| Mlp::Dense { gate, activation: Activation::GeluTanh };
    let gemma = Norms { attention_out: Some("post_attention_norm"), mlp_out: Some("post_ffw_norm"), ..PRE };
    match name {
        "llama" | "llama3" | "yarn" | "qwen2" => {}
        "qwen3" => a.head_norm = HeadNorm::EachHead(RMS),
        "mistral" => a.window = Some(Window::Sliding(4)),
        "olmo2" => {
            a.head_norm = HeadNorm::AllHeads(RMS5);
            l.norm = RMS5;
            l.norms = Norms { attention_in: None, mlp_in: None, ..gemma };
        }
        "granite" => {
            a.scale = 0.125;
            l.residual_scale = 0.25;
        }
        "gemma2" | "gemma2 full" => {
            a.scale = 10f32.powf(-0.5);
            a.soft_cap = Some(2.0);
            a.window = (name == "gemma2").then_some(Window::Sliding(4));
            l.norms = gemma;
            l.mlp = gelu(Gate::Separate);
        }
        "gemma3" => {
            a.window = Some(Window::Sliding(3));
            a.head_norm = HeadNorm::EachHead(RMS);
            l.norms = gemma;
            l.mlp = gelu(Gate::Separate);
        }
        "phi3 short" | "phi3 long" => {
            (a.key_dim, a.value_dim, a.scale, a.projections) = (4, 4, 0.5, Projections::Fused);
            l.norm = RMS5;
            l.mlp = Mlp::Dense { gate: Gate::FirstHalf, activation: Activation::Silu };
        }
        "starcoder2" => {
            a.window = Some(Window::Sliding(4));
            l.norm = LAYER5;
            l.mlp = gelu(Gate::None);
        }
        "gpt2" => {
            (a.kv_heads, a.key_dim, a.value_dim, a.scale) = (4, 4, 4, 0.5);
            (a.projections, a.rope) = (Projections::Fused, None);
            l.norm = LAYER5;
            l.mlp = gelu(Gate::None);
        }
        "cohere" => {
            l.norm = LAYER5;
            l.norms = Norms { mlp_in: None, ..PRE };
            l.parallel = true;
        }
        "bert" => {
            (a.kv_heads, a.key_dim, a.value_dim, a.scale, a.rope) = (4, 4, 4, 0.5, None);
            l.norm = Norm { kind: NormKind::Layer, eps: 1e-12 };
            l.norms = Norms {
                attention_sum: Some("attn_output_norm"),
                mlp_sum: Some("layer_output_norm"),
                ..Norms::default()
            };
            l.mlp = Mlp::Dense { gate: Gate::None, activation: Activation::Gelu };
        }
        "modernbert" => {
            (a.kv_heads, a.key_dim, a.value_dim, a.scale) = (4, 4, 4, 0.5);
            (a.projections, a.window) = (Projections::Fused, Some(Window::Around(3)));
            l.norm = LAYER5;
            l.mlp = Mlp::Dense { gate: Gate::FirstHalf, activation: Activation::Gelu };
        }
        "mixtral" => {
            l.norm = RMS5;
            l.mlp = Mlp::Experts(Experts { normalise: Some(0.0), ..experts() });
        }
        "qwen3moe" | "qwen3moe normalised" => {
            a.head_norm = HeadNorm::EachHead(RMS);
            let normalise = (name != "qwen3moe").then_some(0.0);
            l.mlp = Mlp::Experts(Experts { normalise, ..experts() });
        }
        "gpt-oss" => {
            a.window = Some(Window::Sliding(4));
            a.sinks = true;
            l.norm = RMS5;
            let activation = Activation::ClampedSwiglu { alpha: 1.702, limit: 1.25 };
            l.mlp = Mlp::Experts(Experts { scoring: Scoring::SoftmaxOfChosen, activation, ..experts() });
        }
        "llama4 chunked" | "llama4 without positions" => {
            if name == "llama4 chunked" {
                a.window = Some(Window::Chunked(4));
                a.head_norm = HeadNorm::BareAfterRope(1e-5);
            } else {
                a.rope = None;
                a.temperature = Some(Temperature { floor_scale: 3.0, scale: 0.5 });
            }
            l.norm = RMS5;
            let scoring = Scoring::Sigmoid;
            l.mlp = Mlp::Experts(Experts { used: 1, scoring, scales_input: true, shared: true, ..experts() });
        }
        "deepseek2" | "deepseek2 lite" | "deepseek3" => {
            let third = name == "deepseek3";
            (a.kv_heads, a.key_dim, a.value_dim, a.scale) = (4, 10, 5, 10f32.powf(-0.5));
            a.projections = Projections::Latent { queries: third, rank: 12, nope: 6, rope: 4, eps: 1e-6 };
            let groups = (name != "deepseek2 lite").then_some(Groups { count: 4, used: 2, two_best: third });
            l.mlp = Mlp::Experts(Experts {
                scoring: if third { Scoring::Sigmoid } else { Scoring::Softmax },
                correction: third,
                groups,
                normalise: third.then_some(1e-20),
                scale: 1.5,
                shared: true,
                ..experts()
            });
        }
        "glm4moe" => {
            a.head_norm = HeadNorm::EachHead(RMS5);
            l.norm = RMS5;
            l.mlp = Mlp::Experts(Experts {
                scoring: Scoring::Sigmoid,
                correction: true,
                groups: Some(Groups { count: 1, used: 1, two_best: true }),
                normalise: Some(1e-20),
                scale: 2.0,
                shared: true,
                ..experts()
            });
        }
        other => panic!("no facts for {other}"),
    }
    l
}

fn cases() -> Vec<(String, Case)> {
    let golden = golden();
    let tokens = golden["tokens"].as_u64().unwrap() as usize;
    let hidden = golden["hidden"].as_u64().unwrap() as usize;
    let frequencies = |name: &str| floats(&golden["cases"][name]["frequencies"]);
    let one = |(name, case): (&String, &Value)| {
        let tensors = case["tensors"].as_object().unwrap().iter().map(|(end, t)| {
            let shape: Vec<usize> =
                t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
            let number = |key: &str| t[key].as_f64().unwrap() as f32;
            (format!("blk.0.{end}"), values(end, &shape, number("scale"), number("shift")))
        });
        let ropes = if case["frequencies"].is_null() {
            Vec::new()
        } else {
            let long = match name.as_str() {
                "phi3 short" => Some((32, frequencies("phi3 long"))),
                "phi3 long" => Some((8, frequencies("phi3 long"))),
                _ => None,
            };
            let inverse_frequencies = match name.as_str() {
                "phi3 long" => frequencies("phi3 short"),
                name => frequencies(name),
            };
            let neighbours = ["cohere", "llama4", "deepseek"].iter().any(|n| name.starts_with(n));
            let pairs = if neighbours { Pairs::Neighbours } else { Pairs::Halves };
            let scale = case["factor"].as_f64().unwrap() as f32;
            vec![Rope { inverse_frequencies, long, scale, pairs }]
        };
        let batch = case["batch"].as_u64().unwrap_or(1) as usize;
        let mask = case["mask"].as_array().map(|rows| {
            let rows: Vec<u8> = rows.iter().flat_map(floats).map(|v| v as u8).collect();
            Tensor::from_vec(rows, (batch, tokens), &DEV).unwrap()
        });
        let forward = Forward {
            family: "llama",
            hidden,
            context: None,
            causal: !["bert", "modernbert"].contains(&name.as_str()),
            embedding: Embedding { scale: 1.0, positions: false, types: false, norm: None },
            ropes,
            layers: vec![facts(name)],
            final_norm: None,
            head: None,
        };
        let x = values("x", &[batch, tokens, hidden], 1.75, 0.0);
        let case = Case { forward, tensors: tensors.collect(), x, mask, expected: floats(&case["output"]) };
        (name.clone(), case)
    };
    golden["cases"].as_object().unwrap().iter().map(one).collect()
}

impl Case {
    fn weights(&self) -> Weights {
        Weights::from_tensors(self.tensors.clone())
    }

    /// The layer's output for `x`, which begins at `position`.
    fn run(
        &self,
        weights: &Weights,
        x: &Tensor,
        position: usize,
        cache: Option<&mut LayerCache>,
    ) -> hoist::Result<Tensor> {
        let tensors = weights.stage(Stage::Layer(0)).unwrap();
        let pass = Pass::new(position, self.mask.as_ref());
        layer(&self.forward, 0, weights, &tensors, x, &pass, cache)
    }
}

/// The largest difference, as part of the largest value; NaN where one is.
fn off(found: &Tensor, expected: &[f32]) -> f32 {
    let found = found.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    worst.fold(0f32, |m, v| if v.is_nan() { f32::NAN } else { m.max(v) }) / largest
}

#[test]
fn as_transformers() {
    let mut failures = Vec::new();
    for (name, case) in cases() {
        let mut y = case.run(&case.weights(), &case.x, 0, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        if let Some(mask) = &case.mask {
            // What stands where there is no token is nobody's business, as long as it is a number.
            assert!(
                y.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|v| v.is_finite()),
                "{name}"
            );
            y = y.broadcast_mul(&mask.to_dtype(DType::F32).unwrap().unsqueeze(D::Minus1).unwrap()).unwrap();
        }
        let off = off(&y, &case.expected);
        if off.is_nan() || off > 2e-6 {
            failures.push(format!("{name}: {off:e}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn token_by_token_as_all_at_once() {
    let mut failures = Vec::new();
    for (name, case) in cases() {
        if !case.forward.causal {
            continue;
        }
        let n = case.x.dim(1).unwrap();
        for pieces in [vec![n], vec![7, 1, 1, 1], vec![1; 10], vec![2, 5, 3]] {
            if name == "phi3 long" && pieces.len() > 1 {
                continue;
            }
            let (weights, mut cache, mut at) = (case.weights(), LayerCache::new(), 0);
            let mut parts = Vec::new();
            for count in &pieces {
                let x = case.x.narrow(1, at, *count).unwrap();
                parts.push(case.run(&weights, &x, at, Some(&mut cache)).unwrap());
                at += count;
            }
            let off = off(&Tensor::cat(&parts, 1).unwrap(), &case.expected);
            if off.is_nan() || off > 2e-6 {
                failures.push(format!("{name} {pieces:?}: {off:e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Long enough for several blocks of queries, for caches that grow, and for windows that forget.
#[test]
fn pieces_of_a_long_text_as_all_at_once() {
    for (name, case) in cases() {
        if !case.forward.causal || name.starts_with("phi3") {
            continue;
        }
        let n = 333;
        let x = values("long", &[2, n, case.forward.hidden], 1.5, 0.0);
        let weights = case.weights();
        let whole = case.run(&weights, &x, 0, None).unwrap();
        let (mut cache, mut at, mut parts) = (LayerCache::new(), 0, Vec::new());
        for count in [140, 1, 1, 60, 1, 129, 1] {
            let part = x.narrow(1, at, count).unwrap();
            parts.push(case.run(&weights, &part, at, Some(&mut cache)).unwrap());
            at += count;
        }
        assert_eq!((at, cache.end()), (n, n));
        let expected = whole.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let off = off(&Tensor::cat(&parts, 1).unwrap(), &expected);
        assert!(off < 5e-6, "{name}: {off:e}");
        // A batch is its texts.
        let second = case.run(&weights, &x.narrow(0, 1, 1).unwrap(), 0, None).unwrap();
        let off = self::off(&second, &expected[expected.len() / 2..]);
        assert!(off < 5e-6, "{name}: {off:e}");
    }
}

#[test]
fn in_16_bits() {
    let mut failures = Vec::new();
    for (name, case) in cases() {
        for (dtype, limit) in [(DType::BF16, 0.05), (DType::F16, 0.01)] {
            // One expert for each token: a rounding before the router sends one of them elsewhere here.
            if name == "llama4 without positions" && dtype == DType::BF16 {
                continue;
            }
            let cast = |t: &Tensor| t.to_dtype(dtype).unwrap();
            let tensors: HashMap<_, _> = case.tensors.iter().map(|(n, t)| (n.clone(), cast(t))).collect();
            // The same rounded numbers in 32 bits: an expert is chosen by the same ones.
            let wide = tensors.iter().map(|(n, t)| (n.clone(), t.to_dtype(DType::F32).unwrap())).collect();
            let x = cast(&case.x);
            let expected = Case { tensors: wide, ..cases().into_iter().find(|(n, _)| *n == name).unwrap().1 };
            let expected =
                expected.run(&expected.weights(), &x.to_dtype(DType::F32).unwrap(), 0, None).unwrap();
            let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let y = case.run(&Weights::from_tensors(tensors), &x, 0, None).unwrap();
            assert_eq!(y.dtype(), DType::F32);
            let off = off(&y, &expected);
            if off.is_nan() || off > limit {
                failures.push(format!("{name} {dtype:?}: {off:e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Whatever shape a tensor has, it is told by its name or by that of one that must fit to it.
#[test]
fn shapes_that_do_not_fit() {
    for (name, case) in cases() {
        for (tensor, value) in &case.tensors {
            let mut bad = vec![value.unsqueeze(0).unwrap(), value.flatten_all().unwrap()];
            for d in 0..value.rank() {
                bad.push(value.narrow(d, 0, value.dim(d).unwrap() - 1).unwrap().contiguous().unwrap());
            }
            for bad in bad.into_iter().filter(|b| b.dims() != value.dims()) {
                let mut tensors = case.tensors.clone();
                let shape = bad.dims().to_vec();
                tensors.insert(tensor.clone(), bad);
                let Err(e) = case.run(&Weights::from_tensors(tensors), &case.x, 0, None) else {
                    panic!("{name}: {tensor} passed with {shape:?}");
                };
                assert_eq!(e.kind(), ErrorKind::BadInput, "{name}: {tensor} {shape:?}: {e}");
                let told = e.tensor_name().unwrap_or_else(|| panic!("{name}: {tensor} {shape:?}: {e}"));
                assert!(told.starts_with("blk.0."), "{e}");
                assert!(["has shape", "rows, where"].iter().any(|t| e.to_string().contains(t)), "{e}");
            }
        }
    }
}

/// A whole small decoder: three layers of different kinds, positions, scales, a capped head.
fn decoder(tied: bool) -> (Forward, HashMap<String, Tensor>) {
    let cases: HashMap<String, Case> = cases().into_iter().collect();
    let mut tensors = HashMap::new();
    let mut layers = Vec::new();
    for (index, name) in ["llama", "mistral", "gpt-oss"].iter().enumerate() {
        let case = &cases[*name];
        layers.push(case.forward.layers[0].clone());
        for (tensor, value) in &case.tensors {
            tensors.insert(tensor.replace("blk.0.", &format!("blk.{index}.")), value.clone());
        }
    }
    let mut one =
        |name: &str, shape: &[usize], shift| tensors.insert(name.into(), values(name, shape, 0.5, shift));
    one("token_embd.weight", &[40, 16], 0.0);
    one("position_embd.weight", &[24, 16], 0.0);
    one("token_types.weight", &[2, 16], 0.0);
    one("token_embd_norm.weight", &[16], 1.0);
    one("output_norm.weight", &[16], 1.0);
    one("output_norm.bias", &[16], 0.0);
    if !tied {
        one("output.weight", &[40, 16], 0.0);
        one("output.bias", &[40], 0.0);
    }
    let forward = Forward {
        family: "llama",
        hidden: 16,
        context: None,
        causal: true,
        embedding: Embedding { scale: 1.5, positions: true, types: true, norm: Some(LAYER5) },
        ropes: vec![Rope {
            inverse_frequencies: vec![1.0, 0.3, 0.1, 0.03],
            long: Some((12, vec![0.5, 0.15, 0.05, 0.015])),
            scale: 1.0,
            pairs: Pairs::Halves,
        }],
        layers,
        final_norm: Some(LAYER5),
        head: Some(Head { tied, scale: 0.5, soft_cap: Some(3.0) }),
    };
    (forward, tensors)
}

const IDS: [u32; 16] = [3, 3, 39, 0, 7, 8, 9, 1, 22, 3, 5, 17, 30, 31, 2, 4];

fn hidden(decoder: &Decoder<'_>, ids: &[u32]) -> Tensor {
    let pass = Pass::new(0, None);
    let mut x = decoder.embed(ids, 0).unwrap();
    for k in 0..decoder.forward.layers.len() {
        let tensors = decoder.weights.stage(Stage::Layer(k)).unwrap();
        x = decoder.layer(k, &tensors, &x, &pass, None).unwrap();
    }
    decoder.finish(&decoder.weights.stage(Stage::Back).unwrap(), &x).unwrap().squeeze(0).unwrap()
}

#[test]
fn embeds_by_hand() {
    let (forward, tensors) = decoder(true);
    let weights = Weights::from_tensors(tensors.clone());
    let decoder = Decoder { forward: &forward, weights: &weights };
    let table = |name: &str| tensors[name].to_vec2::<f32>().unwrap();
    let (tokens, positions, types) =
        (table("token_embd.weight"), table("position_embd.weight"), table("token_types.weight"));
    let found = decoder.embed(&IDS, 5).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
    let weight = tensors["token_embd_norm.weight"].to_vec1::<f32>().unwrap();
    for (i, &id) in IDS.iter().enumerate() {
        let sum: Vec<f64> = (0..16)
            .map(|j| f64::from(tokens[id as usize][j]) * 1.5 + f64::from(positions[5 + i][j] + types[0][j]))
            .collect();
        let mean = sum.iter().sum::<f64>() / 16.0;
        let deviation = (sum.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 16.0 + 1e-5).sqrt();
        for j in 0..16 {
            let expected = (sum[j] - mean) / deviation * f64::from(weight[j]);
            assert!((f64::from(found[i][j]) - expected).abs() < 1e-5, "{i} {j}");
        }
    }
}

#[test]
fn logits_by_bands() {
    for tied in [true, false] {
        let (forward, tensors) = decoder(tied);
        let weights = Weights::from_tensors(tensors.clone());
        let decoder = Decoder { forward: &forward, weights: &weights };
        assert_eq!(decoder.vocabulary().unwrap(), 40);
        let h = hidden(&decoder, &IDS);
        let name = if tied { "token_embd.weight" } else { "output.weight" };
        let mut expected = h.matmul(&tensors[name].t().unwrap()).unwrap();
        if !tied {
            expected = expected.broadcast_add(&tensors["output.bias"]).unwrap();
        }
        let expected = expected.affine(0.5 / 3.0, 0.0).unwrap().tanh().unwrap().affine(3.0, 0.0).unwrap();
        let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for bands in [vec![0..40], vec![0..1, 1..17, 17..40]] {
            let parts: Vec<Tensor> = bands.into_iter().map(|b| decoder.logits(&h, b).unwrap()).collect();
            let off = off(&Tensor::cat(&parts, 1).unwrap(), &expected);
            assert!(off < 2e-6, "{off:e}");
        }
        // The soft cap is there: without it some are beyond.
        assert!(expected.iter().all(|v| v.abs() < 3.0));
    }
}

/// Also across the length at which the rotary embedding changes, where all that was kept is worth nothing.
#[test]
fn generates_as_all_at_once() {
    let (forward, tensors) = decoder(true);
    let weights = Weights::from_tensors(tensors);
    let decoder = Decoder { forward: &forward, weights: &weights };
    for first in [1, 5, 11, 12, 13, 16] {
        let mut cache = Cache::new(&forward);
        let mut h = decoder.pass(&IDS[..first], &mut cache).unwrap();
        for end in first..=IDS.len() {
            if end > first {
                h = decoder.pass(&IDS[end - 1..end], &mut cache).unwrap();
                assert_eq!(h.dims(), [1, 16]);
            }
            assert_eq!(cache.ids(), &IDS[..end]);
            let last = h.narrow(0, h.dim(0).unwrap() - 1, 1).unwrap();
            let all = hidden(&decoder, &IDS[..end]);
            let expected =
                all.narrow(0, end - 1, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let off = off(&last, &expected);
            assert!(off < 5e-6, "{first} {end}: {off:e}");
        }
    }
}

#[test]
fn what_a_decoder_refuses() {
    let (forward, tensors) = decoder(true);
    let run = |forward: &Forward, tensors: &HashMap<String, Tensor>, ids: &[u32], at: usize| {
        let weights = Weights::from_tensors(tensors.clone());
        let decoder = Decoder { forward, weights: &weights };
        let h = decoder.embed(ids, at)?.squeeze(0).unwrap();
        decoder.logits(&h, 0..40)
    };
    let with = |name: &str, shape: &[usize]| {
        let mut tensors = tensors.clone();
        tensors.insert(name.into(), values(name, shape, 1.0, 0.0));
        tensors
    };
    let headless = Forward { head: None, ..forward.clone() };
    let untied = Forward { head: forward.head.clone().map(|h| Head { tied: false, ..h }), ..forward.clone() };
    use ErrorKind::{BadInput, Unsupported};
    let rows: Vec<(hoist::Result<Tensor>, ErrorKind, &str)> = vec![
        (run(&forward, &tensors, &[1, 40], 0), BadInput, "token 40 is outside a vocabulary of 40"),
        (run(&forward, &tensors, &[1, 2], 23), BadInput, "tensor `position_embd.weight` has 24 positions"),
        (run(&forward, &tensors, &[1], usize::MAX), BadInput, "has 24 positions"),
        (
            run(&forward, &with("token_embd.weight", &[40, 15]), &[1], 0),
            BadInput,
            "`token_embd.weight` has shape",
        ),
        (
            run(&forward, &with("token_types.weight", &[2, 15]), &[1], 0),
            BadInput,
            "`token_types.weight` has shape",
        ),
        (
            run(&forward, &with("token_embd_norm.weight", &[1]), &[1], 0),
            BadInput,
            "`token_embd_norm.weight` has shape",
        ),
        (run(&forward, &with("output.weight", &[40]), &[1], 0), BadInput, "`output.weight` has shape [40]"),
        (run(&forward, &with("output.bias", &[41, 2]), &[1], 0), BadInput, "`output.bias` has not the 40"),
        (run(&headless, &tensors, &[1], 0), Unsupported, "no head"),
        (run(&untied, &tensors, &[1], 0), Unsupported, "no head"),
    ];
    for (found, kind, text) in rows {
        let e = found.err().unwrap_or_else(|| panic!("passed: {text}"));
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(text), "{e}");
    }
}
