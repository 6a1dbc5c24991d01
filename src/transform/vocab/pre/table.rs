//! The pre-tokenizers that llama.cpp knows by name (`tokenizer.ggml.pre`), as the steps that published tokenizer.json
//! files cut text with.
//!
//! A row is a way of cutting; the names that share it differ in a few switches of the engine only. To add a model's
//! pre-tokenizer, add its name to the row that cuts alike, or a row.
//!
//! Steps, in order: `split RE` puts every match of RE into a piece of its own; `bytes` writes each byte as a character;
//! `bytes+words` does so after cutting as GPT-2 does; `punctuation` cuts off runs of punctuation. Regular expressions are in
//! the form that [`canonical`](super::canonical) gives. Digits one by one are `split \p{N}`.

/// One way of cutting.
pub(super) struct Cut {
    /// The steps; more than one list where the same thing was published in several spellings, the usual one first.
    pub(super) steps: &'static [&'static [&'static str]],
    /// The names, the most general first.
    pub(super) names: &'static [Name],
}

/// One name.
pub(super) struct Name {
    pub(super) name: &'static str,
    /// The engine takes a whole word from the vocabulary before it tries to merge.
    pub(super) ignore_merges: bool,
    /// The engine puts the first token before the text unless the file says otherwise.
    pub(super) add_bos: bool,
    /// Architectures whose models use it, as GGUF names them.
    pub(super) archs: &'static [&'static str],
    /// Chosen for those architectures only.
    pub(super) theirs_only: bool,
    /// The tokenizer published under this name applies Unicode's NFC first, which GGUF cannot say.
    pub(super) nfc: bool,
}

const fn name(name: &'static str, archs: &'static [&'static str]) -> Name {
    Name { name, ignore_merges: false, add_bos: false, archs, theirs_only: false, nfc: false }
}

/// A name that takes whole words first.
const fn whole(name: Name) -> Name {
    Name { ignore_merges: true, ..name }
}

/// A name that adds the first token.
const fn bos(name: Name) -> Name {
    Name { add_bos: true, ..name }
}

/// A name whose tokenizer normalises.
const fn nfc(name: Name) -> Name {
    Name { nfc: true, ..name }
}

/// A name that only its architectures use.
const fn only(name: Name) -> Name {
    Name { theirs_only: true, ..name }
}

/// GPT-2's cut, which a `ByteLevel` step has built in.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The English contractions, in the spelling that the others are brought to.
pub(super) const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

/// Parts of expressions that match the same, and the spelling that they are brought to. A possessive `?+` before a letter
/// changes nothing where its class has no letter; the last line end of a run is also where a greedy run ends; one space is
/// left over where more would have matched before.
pub(super) const SPELLINGS: &[(&str, &str)] = &[
    ("'(?i:[sdmt]|ll|ve|re)", CONTRACTIONS),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", CONTRACTIONS),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[dD]|'[lL][lL])", CONTRACTIONS),
    ("'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])", CONTRACTIONS),
    ("(?i:'s|'t|'re|'ve|'m|'d|'ll)", CONTRACTIONS),
    (r"\p{N}{1}", r"\p{N}"),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+"),
    (r"[^\s\p{L}\p{N}]++[\r\n]*", r"[^\s\p{L}\p{N}]+[\r\n]*"),
    (r"|\s*[\r\n]|\s+(?!\S)", r"|\s*[\r\n]+|\s+(?!\S)"),
];

/// The end of an expression, likewise.
pub(super) const ENDINGS: &[(&str, &str)] = &[(r"|\s+(?!\S)|\s", r"|\s+(?!\S)|\s+")];

macro_rules! split {
    ($($part:expr),* $(,)?) => { concat!("split ", $($part),*) };
}

macro_rules! gpt4 {
    ($digits:literal, $rest:literal) => {
        split!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|",
            $rest
        )
    };
}

macro_rules! cased_words {
    ($tail:literal) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $tail,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $tail
        )
    };
}

macro_rules! o200k {
    ($digits:literal) => {
        split!(
            cased_words!("(?i:'s|'t|'re|'ve|'m|'ll|'d)?"),
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

macro_rules! letters_and_marks {
    ($newlines:literal) => {
        split!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"##,
            $newlines,
            r"|\s+(?!\S)|\s+"
        )
    };
}

const GPT4_3: &str = gpt4!(r"\p{N}{1,3}", r"\s+(?!\S)|\s+");
const GPT4_1: &str = gpt4!(r"\p{N}", r"\s+(?!\S)|\s+");
const O200K: &str = o200k!(r"\p{N}{1,3}");
const KANA: &str = split!("[一-龥぀-ゟ゠-ヿ]+");
const CJK: &str = split!("[一-龥ࠀ-一가-퟿]+");
const BLOOM: &str = split!(r" ?[^(\s|[.,!?…。，、।۔،])]+");
const BLOOM_LOOSE: &str = split!(r" ?[^(\s|.,!?…。，、।۔،)]+");
/// deepseek-llm's letters, range by range as its file has them. By number: some look like others, and editors unite them.
#[rustfmt::skip]
const DEEPSEEK_LETTERS: &str = split!(
    "\\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-",
    "\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-",
    "\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-",
    "\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}",
    "\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-",
    "\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}",
    "\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-",
    "\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}",
    "\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}",
    "\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}",
    "\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-",
    "\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}",
    "\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}",
    "\u{1e900}-\u{1e943}]+",
);
const DEEPSEEK_MARKS: &str = split!(r"\s?[!-/:-~！-／：-～‘-‟　-。]+");

const AFMOE_SCRIPTS: &str = split!(
    "(?:[\u{4e00}-\u{9fff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}]+|",
    "[\u{e00}-\u{e7f}]+|[\u{e80}-\u{eff}]+|[\u{1780}-\u{17ff}]+|[\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}]+|",
    "[\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+)",
);

#[rustfmt::skip]
pub(super) const CUTS: &[Cut] = &[
    Cut { steps: &[&[GPT4_3, "bytes"]], names: &[
        name("dbrx", &["dbrx", "olmo2", "olmoe", "phi3", "granitehybrid"]),
        bos(whole(name("llama-bpe", &["llama"]))),
        name("smaug-bpe", &["smollm3", "llama"]),
        bos(whole(only(name("falcon-h1", &["falcon-h1"])))),
        bos(whole(only(name("lfm2", &["lfm2", "lfm2moe"])))),
        whole(only(name("glm4", &["glm4", "glm4moe", "glm-dsa"]))),
        only(name("chatglm-bpe", &["chatglm", "glm4", "glm4moe"])),
        // The engine's other words for the same; never chosen.
        bos(whole(only(name("falcon3", &[])))),
        bos(whole(only(name("pixtral", &[])))),
        bos(whole(only(name("midm-2.0", &[])))),
        bos(whole(only(name("jina-v5-nano", &[])))),
        bos(whole(only(name("llama3", &[])))),
        bos(whole(only(name("llama-v3", &[])))),
        whole(only(name("glm5", &[]))),
    ] },
    Cut { steps: &[&[GPT4_1, "bytes"]], names: &[
        nfc(name("qwen2", &["qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe"])),
        only(name("stablelm2", &["stablelm"])),
        only(name("hunyuan", &["hunyuan-moe"])),
        only(name("grok-2", &["grok"])),
        only(name("solar-open", &[])),
        only(name("deepseek-r1-qwen", &[])),
        only(name("megrez", &[])),
        only(name("kormo", &[])),
        only(name("f2llmv2", &[])),
        only(name("bailingmoe", &["bailingmoe"])),
        only(name("bailingmoe2", &["bailingmoe2"])),
        only(name("llada-moe", &["llada-moe"])),
    ] },
    Cut { steps: &[&["bytes+words"]], names: &[
        name("gpt-2", &["gpt2", "starcoder"]),
        only(name("phi-2", &["phi2"])),
        only(name("mpt", &["mpt"])),
        nfc(only(name("olmo", &["olmo", "gptneox"]))),
        only(name("jais", &["jais"])),
        only(name("exaone4", &["exaone4"])),
        only(name("roberta-bpe", &["bert"])),
        only(name("jina-v2-code", &["jina-bert-v2"])),
        only(name("modern-bert", &["modern-bert"])),
        only(name("trillion", &[])),
        only(name("granite-docling", &[])),
        only(name("gigachat", &[])),
        only(name("jina-v1-en", &[])),
        only(name("jina-v2-es", &[])),
        only(name("jina-v2-de", &[])),
        only(name("jina-es", &[])),
        only(name("jina-de", &[])),
        only(name("a.x-4.0", &[])),
        only(name("mellum", &[])),
    ] },
    Cut { steps: &[&[r"split \p{N}", "bytes+words"]], names: &[
        name("starcoder", &["starcoder", "starcoder2"]),
        name("refact", &["refact", "granite", "granitemoe", "granitemoeshared"]),
        name("smollm", &["llama"]),
        only(name("command-r", &["command-r", "cohere2"])),
        only(name("codeshell", &["codeshell"])),
        only(name("exaone", &["exaone"])),
        only(name("minerva-7b", &[])),
        only(name("mellum2", &[])),
    ] },
    Cut { steps: &[&[O200K, "bytes"]], names: &[
        name("gpt-4o", &["gpt-oss", "phi3"]),
        only(name("llama4", &["llama4"])),
        only(name("minimax-m2", &["minimax-m2"])),
        whole(only(name("granite-embed-multi-97m", &["modern-bert"]))),
        only(name("kanana2", &[])),
        only(name("talkie", &[])),
    ] },
    Cut { steps: &[&[
        split!(cased_words!(""), r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[bos(whole(name("tekken", &["llama"])))] },
    Cut { steps: &[
        &["split [\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"split \s+$", CJK, r"split \p{N}+", "bytes"],
        &["split [\\r\\n]", r"split \s?[\p{Lu}\p{Ll}\p{Lt}]+", DEEPSEEK_MARKS, r"split \s+$", CJK, r"split \p{N}+", "bytes"],
    ], names: &[name("deepseek-llm", &["deepseek", "deepseek2", "llama"])] },
    Cut { steps: &[
        &["split [\\r\\n]", r"split \s?\p{L}+", r"split \s?\p{P}+", CJK, r"split \p{N}", "bytes"],
    ], names: &[name("deepseek-coder", &["llama"])] },
    Cut { steps: &[
        &[r"split \p{N}{1,3}", KANA, letters_and_marks!(r"[\r\n]*|\s*[\r\n]+"), "bytes"],
    ], names: &[
        name("deepseek-v3", &["deepseek2"]),
        only(name("hunyuan-dense", &["hunyuan-dense"])),
        only(name("hy_v4", &[])),
        only(name("joyai-llm", &[])),
    ] },
    Cut { steps: &[
        &[r"split \p{N}{1,3}", KANA, letters_and_marks!(r"|[\r\n]"), r"split \p{N}", "bytes"],
    ], names: &[name("spark2_5", &[])] },
    Cut { steps: &[
        &["punctuation contiguous", "bytes+words", r"split \p{N}+", "split [0-9][0-9][0-9]"],
    ], names: &[name("falcon", &["falcon"])] },
    Cut { steps: &[&[
        split!("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[nfc(name("qwen35", &["qwen35", "qwen35moe", "qwen3next"]))] },
    Cut { steps: &[&[BLOOM, "bytes"], &[BLOOM_LOOSE, "bytes"]], names: &[
        name("bloom", &["bloom"]),
        only(name("poro-chat", &[])),
        only(name("gpt3-finnish", &[])),
    ] },
    Cut { steps: &[
        &[BLOOM, r"split \p{N}", "bytes"], &[BLOOM_LOOSE, r"split \p{N}", "bytes"],
    ], names: &[name("viking", &[])] },
    Cut { steps: &[&[
        gpt4!(r"\p{N}{1,3}", r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"),
        "bytes",
    ]], names: &[name("jais-2", &["jais2"])] },
    Cut { steps: &[&[
        split!("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"), o200k!(r"\p{N}"), "bytes",
    ]], names: &[whole(name("youtu", &[]))] },
    Cut { steps: &[&[r"split \d{1,3}(?=(?:\d{3})*\b)", O200K, "bytes"]], names: &[
        name("tiny_aya", &["cohere2"]),
        only(name("cohere2moe", &["cohere2moe"])),
    ] },
    Cut { steps: &[&[r"split \p{N}+", r"split (?=(\d{3})+(?!\d))", "bytes"]], names: &[name("superbpe", &[])] },
    Cut { steps: &[&[
        split!("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[name("seed-coder", &["llama", "seed_oss"])] },
    Cut { steps: &[&[
        split!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[name("ufakzeka", &[])] },
    Cut { steps: &[&[
        r"split \p{Nd}{1,510}(?=(?>\p{Nd}{510})*(?:\P{Nd}|$))|\G\p{Nd}{510}", r"split \A\p{Nd}{1,2}(?=\p{Nd}{3}+\z)",
        r"split \A\p{Nd}{3}|\G\p{Nd}{3}", AFMOE_SCRIPTS, letters_and_marks!(r"[\r\n]*|\s*[\r\n]+"), "bytes",
    ]], names: &[name("afmoe", &["afmoe"])] },
    Cut { steps: &[&[r"split [^\n]+|[\n]+", GPT4_1, "bytes"]], names: &[name("laguna", &[])] },
    Cut { steps: &[&[
        split!("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[name("exaone-moe", &["exaone-moe"])] },
    Cut { steps: &[&[
        r"split \p{N}{1,3}", gpt4!(r"\p{N}+", r"\s+(?!\S)|\s+"), "bytes",
    ]], names: &[whole(name("minicpm5", &[]))] },
    Cut { steps: &[&[
        r"split <sentinel:[0-9]+>", "split (IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"split ([\t\n]|    |  )", r"split \p{N}",
        "punctuation isolated", "bytes+words",
    ]], names: &[bos(name("chameleon", &["chameleon"]))] },
    Cut { steps: &[&[split!(
        r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ), "bytes"]], names: &[name("kimi-k2", &["deepseek2"])] },
];

/// What the engine does where a file names no pre-tokenizer. Read from GGUF files, never chosen.
pub(super) const DEFAULT: Cut = Cut {
    steps: &[&[
        r"split [\p{P}\$\+<=>\^~\|]+",
        "split-words",
        r"split \p{N}+",
        "split [0-9][0-9][0-9]",
        "bytes",
    ]],
    names: &[name("default", &[])],
};
