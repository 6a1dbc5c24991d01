//! What GGUF file names say, and the keys of split files: pure text, so that a listing can be chosen from before a
//! byte is read.
//!
//! The naming convention is `<BaseName>-<SizeLabel>[-FineTune][-Version]-<Encoding>[-Type][-00001-of-00003].gguf`;
//! what people upload is looser (`llama-2-7b.Q8_0.gguf`, `ggml-model-q4_0.gguf`, `BF16/Model-00001-of-00002.gguf`), so
//! the encoding is looked for by what encodings look like, from the end of the name.

use crate::checkpoint::MetaValue;
use crate::error::{Error, Result};
use std::ops::Range;

/// What `split.no`, `split.count` and `split.tensors.count` say of one file of a split model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Which file this is, from zero.
    pub index: u32,
    /// How many files there are.
    pub count: u32,
    /// How many tensors they hold together.
    pub tensors_count: u64,
}

impl Split {
    /// Reads the three keys from a file's metadata ([`crate::checkpoint::Part::meta`]). `None` for a file that is
    /// whole: no `split.count`, or one of 0 or 1 (files merged again keep the key with 0). Keys that are missing, are no
    /// integers or contradict each other are an error.
    pub fn of(meta: &[(String, MetaValue)]) -> Result<Option<Split>> {
        let find = |key: &str| meta.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        let number = |key: &str| match find(key).map(MetaValue::as_u64) {
            Some(Some(n)) => Ok(n),
            Some(None) => {
                Err(Error::bad_input(format!("the key `{key}` is not a whole number from zero up")))
            }
            None => Err(Error::bad_input(format!("the key `split.count` is there but `{key}` is not"))),
        };
        if find("split.count").is_none() {
            return Ok(None);
        }
        let count = number("split.count")?;
        if count <= 1 {
            return Ok(None);
        }
        let (index, tensors_count) = (number("split.no")?, number("split.tensors.count")?);
        let narrow = |n: u64| u32::try_from(n).ok().filter(|&n| n <= SPLIT_COUNT_MAX);
        match (narrow(index), narrow(count)) {
            (Some(index), Some(count)) if index < count => Ok(Some(Split { index, count, tensors_count })),
            _ => Err(Error::bad_input(format!(
                "`split.no` is {index} but `split.count` is {count}; the numbers run from 0 to the count less one"
            ))),
        }
    }
}

/// The most files that the five digits of a split file's name can count.
const SPLIT_COUNT_MAX: u32 = 99_999;

/// The parts of a split file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitName<'a> {
    /// What stands before `-00001-of-00003.gguf`, directories included.
    pub prefix: &'a str,
    /// Which file, from zero (the name counts from one).
    pub index: u32,
    /// How many files.
    pub count: u32,
}

/// The name of the file `index` (from zero) of `count`: `split_name("X", 0, 3)` is `X-00001-of-00003.gguf`.
pub fn split_name(prefix: &str, index: u32, count: u32) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", u64::from(index) + 1)
}

/// Takes a split file's name apart: `X-00001-of-00003.gguf` has the prefix `X`, index 0 and count 3. `None` for any
/// other name.
pub fn parse_split_name(name: &str) -> Option<SplitName<'_>> {
    let stem = stem(name)?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| {
        let plain = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (number, count) = (parse(number)?, parse(count)?);
    let index = number.checked_sub(1)?;
    (index < count && !prefix.is_empty()).then_some(SplitName { prefix, index, count })
}

/// The name without `.gguf` in any case; `None` where it does not end so.
fn stem(name: &str) -> Option<&str> {
    let at = name.len().checked_sub(".gguf".len())?;
    let (stem, extension) = (name.get(..at)?, name.get(at..)?);
    extension.eq_ignore_ascii_case(".gguf").then_some(stem)
}

/// The first word of an encoding, upper case.
fn is_encoding_word(word: &str) -> bool {
    const PLAIN: [&str; 8] = ["F64", "F32", "F16", "BF16", "FP32", "FP16", "MXFP4", "NVFP4"];
    let bits = word.strip_prefix(['I', 'T']).unwrap_or(word).strip_prefix('Q');
    PLAIN.contains(&word) || bits.is_some_and(|b| matches!(b.as_bytes(), [b'1'..=b'8']))
}

/// The words that may follow it after an underscore, upper case: the variants of ggml's types and of the mixes.
const ENCODING_TAILS: [&str; 17] =
    ["0", "1", "2", "3", "4", "8", "K", "S", "M", "L", "XS", "XXS", "XL", "XXL", "NL", "P", "MOE"];

/// Where the encoding lies within one word of a name (no `-`, `.`, `/` in it): the last run `Q4_K_M` of underscored
/// parts.
fn encoding_in(token: &str) -> Option<Range<usize>> {
    let mut found = None;
    let mut run: Option<usize> = None;
    let mut at = 0;
    for part in token.split('_') {
        let upper = part.to_ascii_uppercase();
        let end = at + part.len();
        if is_encoding_word(&upper) {
            run = Some(at);
        } else if !ENCODING_TAILS.contains(&upper.as_str()) {
            run = None;
        }
        found = run.map(|start| start..end).or(found);
        at = end + 1;
    }
    found
}

/// The encoding that a GGUF file's name states, as it stands there: `Q4_K_M` of `Qwen3-8B-Q4_K_M-00001-of-00002.gguf`,
/// `UD-Q4_K_XL` (a mix of Unsloth's) with its prefix. The last one of the file's own name counts; a name without one
/// takes it from its directory (`BF16/Model-00001-of-00002.gguf`). `None` where neither states any.
pub fn quant_of_name(name: &str) -> Option<&str> {
    let stem = parse_split_name(name).map(|s| s.prefix).or_else(|| stem(name))?;
    stem.rsplit('/').find_map(|part| {
        let mut end = part.len();
        loop {
            let start = part[..end].rfind(['-', '.']).map_or(0, |i| i + 1);
            if let Some(found) = encoding_in(&part[start..end]) {
                let at = start + found.start;
                let prefix = at.checked_sub(3).filter(|&p| {
                    let own = p == 0 || matches!(part.as_bytes()[p - 1], b'-' | b'.');
                    own && part.get(p..at).is_some_and(|t| t.eq_ignore_ascii_case("UD-"))
                });
                return part.get(prefix.unwrap_or(at)..start + found.end);
            }
            end = start.checked_sub(1)?;
        }
    })
}

/// Whether a file whose name states `quant` ([`quant_of_name`]) is what `wanted` asks for: letters in any case, `FP16`
/// is `F16`. A wish without `UD-` also accepts such a mix; prefer the file that is equal, where both are there
/// ([`quant_equals`]).
pub fn quant_matches(quant: &str, wanted: &str) -> bool {
    quant_equals(quant, wanted)
        || quant.get(..3).is_some_and(|p| p.eq_ignore_ascii_case("UD-") && quant_equals(&quant[3..], wanted))
}

/// Whether two names of an encoding are the same, letters in any case and `FP16` for `F16`.
pub fn quant_equals(a: &str, b: &str) -> bool {
    let normal = |name: &str| match name.to_ascii_uppercase().as_str() {
        "FP16" => "F16".to_string(),
        "FP32" => "F32".to_string(),
        other => other.to_string(),
    };
    normal(a) == normal(b)
}

/// Whether a `.gguf` file lies beside a model without being one: the vision projector (`mmproj-…`), an importance
/// matrix (`imatrix…`).
pub fn is_side_file(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    file.contains("mmproj") || file.contains("imatrix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names() {
        for (name, expected) in [
            ("X-00001-of-00003.gguf", Some(("X", 0, 3))),
            ("a/b-Q4_K_M-00003-of-00003.GGUF", Some(("a/b-Q4_K_M", 2, 3))),
            ("X-of-Y-00001-of-00001.gguf", Some(("X-of-Y", 0, 1))),
            ("X-00000-of-00003.gguf", None),
            ("X-00004-of-00003.gguf", None),
            ("X-0001-of-00003.gguf", None),
            ("X-+0001-of-00003.gguf", None),
            ("X-00001-of-00003.bin", None),
            ("-00001-of-00003.gguf", None),
            ("X.gguf", None),
            ("gguf", None),
            ("é.gguf", None),
            ("", None),
        ] {
            let got = parse_split_name(name);
            assert_eq!(got.map(|s| (s.prefix, s.index, s.count)), expected, "{name}");
            if let Some(s) = got {
                assert!(split_name(s.prefix, s.index, s.count).eq_ignore_ascii_case(name));
            }
        }
        assert_eq!(split_name("X", u32::MAX, 1), "X-4294967296-of-00001.gguf");
    }

    #[test]
    fn encodings() {
        for (name, expected) in [
            ("Qwen3-8B-Q4_K_M-00001-of-00002.gguf", Some("Q4_K_M")),
            ("llama-2-7b.Q8_0.gguf", Some("Q8_0")),
            ("Qwen3-8B-UD-Q4_K_XL.gguf", Some("UD-Q4_K_XL")),
            ("Q/UD-Q2_K_XL.gguf", Some("UD-Q2_K_XL")),
            ("Qwen3-CLOUD-Q2_K_XL.gguf", Some("Q2_K_XL")),
            ("x-IQ4_XS.gguf", Some("IQ4_XS")),
            ("x-IQ4_NL.gguf", Some("IQ4_NL")),
            ("x-i1-IQ2_XXS.gguf", Some("IQ2_XXS")),
            ("model.i1-Q6_K.gguf", Some("Q6_K")),
            ("x-BF16.gguf", Some("BF16")),
            ("x-f16.gguf", Some("f16")),
            ("Phi-3-mini-4k-instruct-fp16.gguf", Some("fp16")),
            ("Phi-3-mini-4k-instruct-q4.gguf", Some("q4")),
            ("gpt-oss-20b-MXFP4_MOE.gguf", Some("MXFP4_MOE")),
            ("gpt-oss-120b-mxfp4-00001-of-00003.gguf", Some("mxfp4")),
            ("x-TQ1_0.gguf", Some("TQ1_0")),
            ("x-NVFP4.gguf", Some("NVFP4")),
            ("x-Q1_0.gguf", Some("Q1_0")),
            ("ggml-model-q4_0.gguf", Some("q4_0")),
            ("my_model_q5_k_s.gguf", Some("q5_k_s")),
            ("x-Q4_K_M_imat.gguf", Some("Q4_K_M")),
            ("x-Q4_K_M-imat.gguf", Some("Q4_K_M")),
            ("x-f16-Q6_K_L.gguf", Some("Q6_K_L")),
            ("Q4_0_Q8_0.gguf", Some("Q8_0")),
            ("BF16/Model-00001-of-00002.gguf", Some("BF16")),
            ("Q4_K_M/Model-Q5_K_M.gguf", Some("Q5_K_M")),
            ("Qwen3-8B.gguf", None),
            ("model-K_M.gguf", None),
            ("Q4_K_M.safetensors", None),
            ("ünïcode-Q4_K.gguf", Some("Q4_K")),
            ("üD-Q4_K.gguf", Some("Q4_K")),
            ("--..gguf", None),
        ] {
            assert_eq!(quant_of_name(name), expected, "{name}");
        }
        for (quant, wanted, equal, matches) in [
            ("Q4_K_M", "q4_k_m", true, true),
            ("fp16", "F16", true, true),
            ("UD-Q4_K_XL", "Q4_K_XL", false, true),
            ("UD-Q4_K_XL", "ud-q4_k_xl", true, true),
            ("Q4_K_M", "Q4_K", false, false),
            ("Q4_K_XL", "UD-Q4_K_XL", false, false),
        ] {
            assert_eq!((quant_equals(quant, wanted), quant_matches(quant, wanted)), (equal, matches));
        }
        assert!(is_side_file("a/mmproj-BF16.gguf") && is_side_file("imatrix_unsloth.gguf"));
        assert!(!is_side_file("mmproj/Q4_K_M.gguf"));
    }

    #[test]
    fn split_keys() {
        let meta = |no: Option<MetaValue>, count: Option<MetaValue>, tensors: Option<MetaValue>| {
            let rows = [("split.no", no), ("split.count", count), ("split.tensors.count", tensors)];
            let rows = rows.into_iter().filter_map(|(k, v)| Some((k.to_string(), v?)));
            Split::of(&rows.collect::<Vec<_>>()).map_err(|e| e.to_string())
        };
        let (no, count, tensors) =
            (|n| Some(MetaValue::U16(n)), |n| Some(MetaValue::U16(n)), |n| Some(MetaValue::I32(n)));
        assert_eq!(meta(None, None, None), Ok(None));
        assert_eq!(meta(no(0), count(0), tensors(291)), Ok(None));
        assert_eq!(meta(None, count(1), None), Ok(None));
        assert_eq!(
            meta(no(2), count(3), tensors(7)),
            Ok(Some(Split { index: 2, count: 3, tensors_count: 7 }))
        );
        for (got, said) in [
            (meta(no(3), count(3), tensors(7)), "`split.no` is 3 but `split.count` is 3"),
            (meta(no(0), count(3), tensors(-1)), "`split.tensors.count` is not a whole number"),
            (meta(None, count(3), tensors(1)), "`split.count` is there but `split.no` is not"),
            (
                meta(no(0), Some(MetaValue::U64(u64::MAX)), tensors(1)),
                "`split.count` is 18446744073709551615",
            ),
            (meta(no(0), Some(MetaValue::Bool(true)), tensors(1)), "`split.count` is not a whole number"),
        ] {
            assert!(got.as_ref().is_err_and(|e| e.contains(said)), "{got:?}, expected {said}");
        }
    }
}
