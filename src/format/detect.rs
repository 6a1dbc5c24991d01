//! What a file is, by its first bytes. Names lie (`.bin` is four formats); content rarely does.
//!
//! The order matters: exact magics first, then the formats without one, then what people feed by mistake, so that each
//! mistake is called by its name.

use super::{Detected, Known, Step};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are looked at: past the magic of a tar archive at byte 257.
const LOOKED_AT_BYTES: u64 = 512;

/// The pickled magic number that opens torch's older stream, after the pickle's protocol bytes.
const TORCH_LEGACY: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e";

/// Something recognised that holds no weights for us.
struct Mistake {
    at: usize,
    magic: &'static [u8],
    kind: ErrorKind,
    is: &'static str,
    hint: &'static str,
}

macro_rules! mistakes {
    ($($at:literal $magic:literal $kind:ident $is:literal $hint:literal;)*) => {
        &[$(Mistake { at: $at, magic: $magic, kind: ErrorKind::$kind, is: $is, hint: $hint }),*]
    };
}

const OLD_GGML: &str = "the llama.cpp of its time converts it, or take a GGUF of the same model";

// Magics: ggml.h before GGUF (a u32, so stored reversed); the HDF5, NumPy, Arrow, Parquet, gzip, xz, zstd, 7z, bzip2
// and LZ4 specifications; git-lfs' pointer format.
#[rustfmt::skip]
const MISTAKES: &[Mistake] = mistakes! {
    0 b"version https://git-lfs" BadInput    "is a Git LFS pointer, not the file it stands for" "git lfs pull fetches the file itself";
    0 b"\x89HDF\r\n\x1a\n"     Unsupported "is an HDF5 file (Keras, TensorFlow)" "save the model with transformers' save_pretrained, which writes safetensors";
    0 b"\x93NUMPY"             Unsupported "is a NumPy array" "safetensors.numpy.save_file writes arrays as safetensors";
    0 b"ARROW1"                Unsupported "is an Arrow file, a data set rather than weights" "name the folder of the model";
    0 b"PAR1"                  Unsupported "is a Parquet file, a data set rather than weights" "name the folder of the model";
    0 b"\x1f\x8b"              Unsupported "is compressed with gzip" "unpack it first";
    0 b"\x28\xb5\x2f\xfd"      Unsupported "is compressed with zstd" "unpack it first";
    0 b"\xfd7zXZ\x00"          Unsupported "is compressed with xz" "unpack it first";
    0 b"7z\xbc\xaf\x27\x1c"    Unsupported "is a 7z archive" "unpack it first";
    0 b"BZh"                   Unsupported "is compressed with bzip2" "unpack it first";
    0 b"\x04\x22\x4d\x18"      Unsupported "is compressed with LZ4" "unpack it first";
    4 b"TFL3"                  Unsupported "is a TensorFlow Lite model" "take the model it was made from";
    0 b"\x7fELF"               Unsupported "is a program or a compiled engine" "take the model it was made from";
    0 b"%PDF"                  BadInput    "is a PDF document" "name the file or folder of the model";
    0 b"SQLite format 3"       BadInput    "is an SQLite database" "name the file or folder of the model";
};

// The old magics, in the order of bytes that x86 wrote and the other.
#[rustfmt::skip]
const OLD_GGML_MAGICS: &[(&[u8; 4], &str)] = &[
    (b"lmgg", "ggml"), (b"ggml", "ggml"), (b"fmgg", "ggmf"), (b"ggmf", "ggmf"),
    (b"tjgg", "ggjt"), (b"ggjt", "ggjt"), (b"algg", "ggla"), (b"ggla", "ggla"),
];

/// What the file is.
///
/// # Errors
/// `Unsupported` for a format that is recognised and not read; `BadInput` for what is no weights file at all.
pub(super) fn detect(known: &Known) -> Result<Step<Detected>> {
    let size_bytes = known.size_bytes();
    if size_bytes == 0 {
        return Err(Error::bad_input("is empty").hint("the download may have failed: fetch it again"));
    }
    let wanted = size_bytes.min(LOOKED_AT_BYTES);
    let run = known.from(0);
    let Some(head) = usize::try_from(wanted).ok().and_then(|n| run.get(..n)) else {
        return Ok(Step::need(run.len() as u64..wanted));
    };
    let is_legacy = head.first() == Some(&0x80)
        && head.windows(TORCH_LEGACY.len()).take(24).any(|window| window == TORCH_LEGACY);
    let found = match head {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Detected::TorchZip,
        [b'G', b'G', b'U', b'F', ..] => Detected::Gguf,
        _ if is_legacy => Detected::TorchLegacy,
        _ if head.get(257..262) == Some(b"ustar") => return Err(tar(head)),
        _ if is_safetensors(head, size_bytes) => Detected::Safetensors,
        _ => return Err(mistake(head)),
    };
    Ok(Step::Done(found))
}

/// A plausible length and an opening brace; the brace alone, so that a wrong length is the parser's to explain; a
/// plausible length alone, for a header that is damaged at its start.
fn is_safetensors(head: &[u8], size_bytes: u64) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<8>() else { return false };
    let length = u64::from_le_bytes(*length);
    let plausible = (2..=super::safetensors::HEADER_BYTES_MAX).contains(&length)
        && length <= size_bytes.saturating_sub(8);
    let text = |bytes: &[u8]| bytes.iter().all(|b| (0x20..0x7f).contains(b));
    // Eight letters and a brace are a text, not a length.
    plausible || (rest.first() == Some(&b'{') && !text(head.get(..8).unwrap_or(&[])))
}

/// A tar archive: which of the two that hold models.
fn tar(head: &[u8]) -> Error {
    let name = head.split(|&b| b == 0).next().unwrap_or(&[]);
    let name = name.strip_prefix(b"./").unwrap_or(name);
    match name {
        b"storages" | b"tensors" | b"pickle" => {
            Error::unsupported("is PyTorch's tar format, which ended with version 0.1.10")
                .hint("load it in PyTorch (torch.load with weights_only=False, if you trust it) and torch.save it again")
        }
        b"model_config.yaml" | b"model_weights.ckpt" | b"model_weights" => nemo(),
        _ => Error::unsupported("is a tar archive").hint("unpack it and name the folder"),
    }
}

fn nemo() -> Error {
    Error::unsupported("is a NeMo archive").hint(
        "NeMo's export (nemo.collections.llm.export_ckpt, or the convert_*_nemo_to_hf.py scripts) writes a Hugging Face folder",
    )
}

/// Calls a mistake by its name.
fn mistake(head: &[u8]) -> Error {
    for m in MISTAKES {
        if head.get(m.at..).is_some_and(|rest| rest.starts_with(m.magic)) {
            return Error::new(m.kind, m.is).hint(m.hint);
        }
    }
    for (magic, name) in OLD_GGML_MAGICS {
        if head.starts_with(*magic) {
            return Error::unsupported(format!("is in the old `{name}` format, from before GGUF"))
                .hint(OLD_GGML);
        }
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |with: &str| text.get(..with.len()).is_some_and(|t| t.eq_ignore_ascii_case(with.as_bytes()));
    match head {
        _ if begins("<!DOCTYPE") || begins("<html") => {
            Error::bad_input("is an HTML page: a server answered with it in place of the file")
                .hint("fetch the file again, from a link that ends in /resolve/… rather than /blob/…, with a token if the repo asks for one")
        }
        _ if begins("<?xml") || begins("<Error>") => {
            Error::bad_input("is an XML document: a server answered with an error in place of the file")
                .hint("fetch it again")
        }
        _ if begins("{") || begins("[") => {
            Error::bad_input("is a JSON text, not weights")
                .detail("a config or an index, or a server's error in place of the file")
                .hint("name the folder of the model, or fetch the file again")
        }
        _ if head.iter().all(|&b| b == 0) => Error::bad_input("begins with zeros only")
            .detail("its space was set aside and the data never came")
            .hint("fetch it again"),
        [0x80, 2..=5, ..] => Error::unsupported("is a pickle that torch.save did not write")
            .hint("load it in Python, if you trust it, and write its tensors with safetensors.torch.save_file"),
        // ONNX is a protobuf without a magic: field 1, the IR version, then any field of ModelProto.
        [0x08, 3..=20, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42, ..] => {
            Error::unsupported("looks like an ONNX model").hint("take the model it was exported from")
        }
        _ => Error::unsupported(format!("is in no format that hoist knows; it begins with {}", Bytes(head)))
            .hint(super::FORMATS_HINT),
    }
}

/// The first bytes in hexadecimal.
struct Bytes<'a>(&'a [u8]);

impl std::fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("`")?;
        for (i, b) in self.0.iter().take(8).enumerate() {
            write!(f, "{}{b:02x}", if i > 0 { " " } else { "" })?;
        }
        f.write_str("`")
    }
}
