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
    /// The published tokenizers of this kind apply Unicode's NFC first, which GGUF cannot say.
    pub(super) nfc: bool,
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
}

const fn name(name: &'static str, archs: &'static [&'static str]) -> Name {
    Name { name, ignore_merges: false, add_bos: false, archs, theirs_only: false }
}

/// A name that takes whole words first.
const fn whole(name: Name) -> Name {
    Name { ignore_merges: true, ..name }
}

/// A name that adds the first token.
const fn bos(name: Name) -> Name {
    Name { add_bos: true, ..name }
}

/// A name that only its architectures use.
const fn only(name: Name) -> Name {
    Name { theirs_only: true, ..name }
}

/// GPT-2's cut, which a `ByteLevel` step has built in.
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The English contractions, in the spelling that the others are brought to.
pub(super) const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

/// Spellings of the contractions.
pub(super) const CONTRACTION_SPELLINGS: &[&str] = &[
    "'(?i:[sdmt]|ll|ve|re)",
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[dD]|'[lL][lL])",
    "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
    "(?i:'s|'t|'re|'ve|'m|'d|'ll)",
];

macro_rules! split {
    ($($part:expr),*) => { concat!("split ", $($part),*) };
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
/// deepseek-llm's letters, range by range as its file has them.
const DEEPSEEK_LETTERS: &str = split!(
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼ",
    "ℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
);
const DEEPSEEK_MARKS: &str = split!(r"\s?[!-/:-~！-／：-～‘-‟　-。]+");

#[rustfmt::skip]
pub(super) const CUTS: &[Cut] = &[
    Cut { nfc: false, steps: &[&[GPT4_3, "bytes"]], names: &[
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
    Cut { nfc: true, steps: &[&[GPT4_1, "bytes"]], names: &[
        name("qwen2", &["qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe"]),
        only(name("stablelm2", &["stablelm"])),
        only(name("hunyuan", &["hunyuan-moe"])),
        only(name("grok-2", &["grok"])),
        only(name("solar-open", &[])),
        only(name("deepseek-r1-qwen", &[])),
        only(name("megrez", &[])),
        only(name("kormo", &[])),
        only(name("f2llmv2", &[])),
    ] },
    Cut { nfc: false, steps: &[&["bytes+words"]], names: &[
        name("gpt-2", &["gpt2", "starcoder"]),
        only(name("phi-2", &["phi2"])),
        only(name("mpt", &["mpt"])),
        only(name("olmo", &["olmo", "gptneox"])),
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
    Cut { nfc: false, steps: &[&[r"split \p{N}", "bytes+words"]], names: &[
        name("starcoder", &["starcoder", "starcoder2"]),
        name("refact", &["refact", "granite", "granitemoe", "granitemoeshared"]),
        name("smollm", &["llama"]),
        only(name("command-r", &["command-r", "cohere2"])),
        only(name("codeshell", &["codeshell"])),
        only(name("exaone", &["exaone"])),
        only(name("minerva-7b", &[])),
        only(name("mellum2", &[])),
    ] },
    Cut { nfc: false, steps: &[&[O200K, "bytes"]], names: &[
        name("gpt-4o", &["gpt-oss", "phi3"]),
        only(name("llama4", &["llama4"])),
        only(name("minimax-m2", &["minimax-m2"])),
        whole(only(name("granite-embed-multi-97m", &["modern-bert"]))),
        only(name("kanana2", &[])),
        only(name("talkie", &[])),
    ] },
    Cut { nfc: false, steps: &[&[
        split!(cased_words!(""), r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[bos(whole(name("tekken", &["llama"])))] },
    Cut { nfc: false, steps: &[
        &["split [\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_MARKS, r"split \s+$", CJK, r"split \p{N}+", "bytes"],
        &["split [\\r\\n]", r"split \s?[\p{Lu}\p{Ll}\p{Lt}]+", DEEPSEEK_MARKS, r"split \s+$", CJK, r"split \p{N}+", "bytes"],
    ], names: &[name("deepseek-llm", &["deepseek", "deepseek2", "llama"])] },
    Cut { nfc: false, steps: &[
        &["split [\\r\\n]", r"split \s?\p{L}+", r"split \s?\p{P}+", CJK, r"split \p{N}", "bytes"],
    ], names: &[name("deepseek-coder", &["llama"])] },
    Cut { nfc: false, steps: &[
        &[r"split \p{N}{1,3}", KANA, letters_and_marks!(r"[\r\n]*|\s*[\r\n]+"), "bytes"],
    ], names: &[
        name("deepseek-v3", &["deepseek2"]),
        only(name("hunyuan-dense", &["hunyuan-dense"])),
        only(name("hy_v4", &[])),
        only(name("joyai-llm", &[])),
    ] },
    Cut { nfc: false, steps: &[
        &[r"split \p{N}{1,3}", KANA, letters_and_marks!(r"|[\r\n]"), r"split \p{N}", "bytes"],
    ], names: &[name("spark2_5", &[])] },
    Cut { nfc: false, steps: &[
        &["punctuation contiguous", "bytes+words", r"split \p{N}+", "split [0-9][0-9][0-9]"],
    ], names: &[name("falcon", &["falcon"])] },
    Cut { nfc: true, steps: &[&[
        split!("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[name("qwen35", &["qwen35", "qwen35moe", "qwen3next"])] },
    Cut { nfc: false, steps: &[&[BLOOM, "bytes"], &[BLOOM_LOOSE, "bytes"]], names: &[
        name("bloom", &["bloom"]),
        only(name("poro-chat", &[])),
        only(name("gpt3-finnish", &[])),
    ] },
    Cut { nfc: false, steps: &[
        &[BLOOM, r"split \p{N}", "bytes"], &[BLOOM_LOOSE, r"split \p{N}", "bytes"],
    ], names: &[name("viking", &[])] },
    Cut { nfc: false, steps: &[&[
        gpt4!(r"\p{N}{1,3}", r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"),
        "bytes",
    ]], names: &[name("jais-2", &["jais2"])] },
    Cut { nfc: false, steps: &[&[
        split!("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"), o200k!(r"\p{N}"), "bytes",
    ]], names: &[whole(name("youtu", &[]))] },
    Cut { nfc: false, steps: &[&[r"split \d{1,3}(?=(?:\d{3})*\b)", O200K, "bytes"]], names: &[
        name("tiny_aya", &["cohere2"]),
        only(name("cohere2moe", &["cohere2moe"])),
    ] },
    Cut { nfc: false, steps: &[&[r"split \p{N}+", r"split (?=(\d{3})+(?!\d))", "bytes"]], names: &[name("superbpe", &[])] },
    Cut { nfc: false, steps: &[
        &[split!("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"), "bytes"],
        &[split!("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"), "bytes"],
    ], names: &[
        name("bailingmoe", &["bailingmoe"]),
        only(name("bailingmoe2", &["bailingmoe2"])),
        only(name("llada-moe", &["llada-moe"])),
    ] },
    Cut { nfc: false, steps: &[&[
        split!("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[name("seed-coder", &["llama", "seed_oss"])] },
    Cut { nfc: false, steps: &[&[
        split!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[name("ufakzeka", &[])] },
    Cut { nfc: false, steps: &[&[r"split [^\n]+|[\n]+", GPT4_1, "bytes"]], names: &[name("laguna", &[])] },
    Cut { nfc: false, steps: &[&[
        split!("(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"), "bytes",
    ]], names: &[name("exaone-moe", &["exaone-moe"])] },
    Cut { nfc: false, steps: &[&[
        r"split \p{N}{1,3}", gpt4!(r"\p{N}+", r"\s+(?!\S)|\s+"), "bytes",
    ]], names: &[whole(name("minicpm5", &[]))] },
    Cut { nfc: false, steps: &[&[
        r"split <sentinel:[0-9]+>", "split (IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"split ([\t\n]|    |  )", r"split \p{N}",
        "punctuation isolated", "bytes+words",
    ]], names: &[bos(name("chameleon", &["chameleon"]))] },
    Cut { nfc: false, steps: &[&[split!(
        r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ), "bytes"]], names: &[name("kimi-k2", &["deepseek2"])] },
];

/// What the engine does where a file names no pre-tokenizer. Read from GGUF files, never chosen.
pub(super) const DEFAULT: Cut = Cut {
    nfc: false,
    steps: &[&[
        r"split [\p{P}\$\+<=>\^~\|]+",
        "split-words",
        r"split \p{N}+",
        "split [0-9][0-9][0-9]",
        "bytes",
    ]],
    names: &[name("default", &[])],
};
