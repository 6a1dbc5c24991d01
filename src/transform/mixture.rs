//! Mixtures: which block type each tensor of a GGUF gets when a model is quantised, as llama-quantize decides it.
//!
//! A mixture is what llama.cpp calls a file type: a block type for most tensors, and rules for those that suffer more than
//! others. The rules are rows (`mixture/rows.rs`); [`assign`] walks the tensors in llama.cpp's order, by layer and then by name, because
//! some rules count. Facts from llama.cpp, `src/llama-quant.cpp` of ggml 0.25.

mod rows;

pub use rows::MIXTURES;

use crate::checkpoint::{MetaKind, MetaValue};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::text::Shown;
use rows::{AT_LEAST_Q8, BY_EIGHT, FALLBACKS, KEPT, PARTS, SEVENTY};
use std::cmp::Ordering;

/// A mixture.
#[derive(Debug, PartialEq)]
pub struct Mixture {
    /// What it is called, in small letters.
    pub name: &'static str,
    /// A shorter name of the same; a scheme of safetensors may have it too.
    pub alias: Option<&'static str>,
    /// `general.file_type`.
    pub file_type: u32,
    /// What a tensor gets that no rule names.
    pub dtype: DType,
    /// What some get instead; of the rules for a part the first that holds counts.
    rules: &'static [Rule],
    /// Attention outputs of models with eight experts get q5_k.
    eight_experts: bool,
    /// Whether only experts are of its type: everything else gets q8_0.
    experts_only: bool,
    /// Whether blocks of its type are made only with an importance.
    needs_importance: bool,
}

/// A rule of a mixture.
#[derive(Debug, PartialEq)]
struct Rule {
    part: Part,
    when: &'static [When],
    dtype: DType,
}

/// What a tensor is to a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Embedding,
    Output,
    /// Values, and what they are fused with.
    Value,
    Key,
    Query,
    AttentionOutput,
    Up,
    Gate,
    Down,
    Other,
}

/// When a rule holds. Layers are counted among the tensors of one part; `n` of them there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// The first and last eighth, and of the rest each third.
    More,
    /// The first so many.
    First(u64),
    /// The first `n / so many`.
    FirstOf(u64),
    /// Four query heads or more share a key.
    Grouped,
    Importance,
    NoImportance,
    Falcon,
    NotFalcon,
    /// Not of eight experts.
    NotEight,
}

/// A tensor of the model that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// Its name in the GGUF.
    pub name: &'a str,
    /// Its sizes, outermost first.
    pub shape: &'a [u64],
}

/// What the rules must know of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// `general.architecture`.
    pub arch: String,
    /// Layers.
    pub layers: u64,
    /// Experts; zero where there are none.
    pub experts: u64,
    /// Query heads of the first layer.
    pub heads: u64,
    /// Key heads of the first layer.
    pub key_heads: u64,
}

/// What a person chose, before all rules.
#[derive(Default)]
pub struct Choice<'a> {
    /// The type of a tensor of this name.
    pub named: Option<&'a dyn Fn(usize) -> Option<DType>>,
    /// The type of the head.
    pub output: Option<DType>,
    /// The type of the embedding.
    pub embedding: Option<DType>,
    /// No rules.
    pub pure: bool,
    /// Whether there is an importance.
    pub importance: bool,
}

/// What a tensor becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// It stays what it is.
    Kept,
    /// Blocks of this type.
    Type(DType),
    /// Blocks of this type, because its rows do not fill those of the other.
    Fallback {
        /// What it gets.
        dtype: DType,
        /// What it would have got.
        instead_of: DType,
    },
}

impl Mixture {
    /// The mixture of a name in small letters.
    pub fn find(name: &str) -> Option<&'static Mixture> {
        MIXTURES.iter().find(|m| m.name == name || m.alias == Some(name))
    }

    /// What a matrix gets that no rule names and that is no expert's.
    pub fn dense_dtype(&self) -> DType {
        if self.experts_only { DType::Q8_0 } else { self.dtype }
    }
}

impl About {
    /// From a GGUF's keys.
    pub fn of_keys<'a>(key: impl Fn(&str) -> Option<&'a MetaValue>) -> About {
        let arch = key("general.architecture").and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        // Of a list the first layer's.
        let number = |name: &str| {
            let value = key(&format!("{arch}.{name}"))?;
            value.as_u64().or_else(|| first(value))
        };
        let heads = number("attention.head_count").unwrap_or(0);
        About {
            layers: number("block_count").unwrap_or(0),
            experts: number("expert_count").unwrap_or(0),
            heads,
            key_heads: number("attention.head_count_kv").unwrap_or(heads),
            arch,
        }
    }

    fn is_falcon(&self) -> bool {
        self.arch == "falcon"
    }

    /// What llama.cpp takes for a model of 70 billion parameters, whose values are shared by many heads.
    fn is_seventy(&self) -> bool {
        let shared = self.arch != "llama" || self.heads != self.key_heads;
        shared && SEVENTY.contains(&(self.arch.as_str(), self.layers))
    }
}

/// The first number of a list: of layers that differ llama.cpp looks at that one.
fn first(value: &MetaValue) -> Option<u64> {
    let MetaValue::Array(array) = value else { return None };
    match array.kind {
        MetaKind::U32 | MetaKind::I32 => {
            let (numbers, _) = array.bytes.as_chunks::<4>();
            u64::try_from(i32::from_le_bytes(*numbers.first()?)).ok()
        }
        _ => None,
    }
}

/// The layer that a name begins with.
fn layer(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// llama.cpp's order: by layer, those without one first, and then by name.
pub fn order(a: &str, b: &str) -> Ordering {
    layer(a).cmp(&layer(b)).then_with(|| a.cmp(b))
}

fn part(name: &str) -> Part {
    PARTS.iter().find(|(how, _)| how.holds(name)).map_or(Part::Other, |&(_, part)| part)
}

/// Dimensions without those of one element at the outer end, which a GGUF does not count.
fn dimensions(shape: &[u64]) -> usize {
    shape.len() - shape.iter().take_while(|&&n| n == 1).count()
}

/// Whether llama-quantize quantises a tensor at all.
pub fn is_quantised(arch: &str, tensor: Tensor<'_>) -> bool {
    let kept = KEPT.iter().any(|(of, how)| of.is_none_or(|of| of == arch) && how.holds(tensor.name));
    dimensions(tensor.shape) >= 2 && tensor.name.ends_with("weight") && !kept
}

/// The type of each tensor, in the order of `tensors`, which must be llama.cpp's ([`order`]).
///
/// # Errors
/// `BadInput`: a layer that the model does not have. `Usage`: a type that is made only with an importance, without one.
pub fn assign(
    mixture: &Mixture,
    tensors: &[Tensor<'_>],
    about: &About,
    choice: &Choice<'_>,
) -> Result<Vec<Given>> {
    let is_tied = tensors.iter().all(|t| part(t.name) != Part::Output);
    let values = tensors.iter().filter(|t| part(t.name) == Part::Value).count() as u64;
    let mut walk = Walk { mixture, about, choice, is_tied, values, value: 0, down: 0 };
    tensors.iter().enumerate().map(|(index, &tensor)| walk.give(index, tensor)).collect()
}

struct Walk<'a> {
    mixture: &'a Mixture,
    about: &'a About,
    choice: &'a Choice<'a>,
    is_tied: bool,
    values: u64,
    /// Values and down projections that the rules were asked for so far.
    value: u64,
    down: u64,
}

impl Walk<'_> {
    fn give(&mut self, index: usize, tensor: Tensor<'_>) -> Result<Given> {
        if !is_quantised(&self.about.arch, tensor) {
            return Ok(Given::Kept);
        }
        let part = part(tensor.name);
        let choice = self.choice;
        let named = choice.named.and_then(|named| named(index));
        let is_main = tensor.name == "token_embd.weight";
        let chosen = match part {
            Part::Embedding if is_main || named.is_none() => choice.embedding,
            Part::Output => choice.output,
            _ => None,
        };
        // What a person says of these two is not looked at any further.
        if let Some(dtype) = chosen {
            return Ok(Given::Type(dtype));
        }
        let dtype = match named {
            Some(dtype) => dtype,
            None if choice.pure => self.mixture.dtype,
            None => self.by_rules(part, tensor)?,
        };
        let given = fall_back(dtype, tensor);
        let needs = self.mixture.needs_importance && !choice.importance;
        if needs
            && given == Given::Type(self.mixture.dtype)
            && !matches!(part, Part::Embedding | Part::Output)
        {
            return Err(Error::usage(format!("`{}` is only made with an importance", self.mixture.name))
                .hint("--importance FILE, an imatrix"));
        }
        Ok(given)
    }

    fn by_rules(&mut self, part: Part, tensor: Tensor<'_>) -> Result<DType> {
        let Mixture { dtype, rules, .. } = *self.mixture;
        let about = self.about;
        let name = tensor.name;
        let guarded = AT_LEAST_Q8.iter().any(|(arch, how)| *arch == about.arch && how.holds(name));
        if guarded {
            return Ok(DType::Q8_0);
        }
        if part == Part::Output || self.is_tied && part == Part::Embedding {
            let columns = tensor.shape.last().copied().unwrap_or(0);
            let fills = columns.is_multiple_of(u64::from(dtype.facts().block_elements));
            let wide = self.mixture.experts_only || about.is_falcon() || !fills || dtype == DType::Q8_0;
            return Ok(match self.choice.output {
                Some(chosen) => chosen,
                None if wide => DType::Q8_0,
                None => DType::Q6K,
            });
        }
        if self.mixture.experts_only {
            let is_stack =
                tensor.shape.len() > 2 && tensor.shape[..tensor.shape.len() - 2].iter().any(|&n| n > 1);
            let is_expert = about.arch != "bailingmoe3" || matches!(part, Part::Up | Part::Gate | Part::Down);
            return Ok(if is_stack && is_expert { dtype } else { self.mixture.dense_dtype() });
        }
        let (index, count) = match part {
            Part::Value => {
                self.value += 1;
                (self.value - 1, self.values)
            }
            Part::Down => {
                self.down += 1;
                let counted = self.down - 1;
                // Experts may lie anywhere: their layer is in the name.
                match (about.experts > 1, layer(name)) {
                    (false, _) => (counted, about.layers),
                    (true, Some(layer)) if layer < about.layers => (layer, about.layers),
                    (true, _) => {
                        return Err(Error::bad_input(format!(
                            "`{}` is of no layer below {}, of which there are so many",
                            Shown(name),
                            about.layers
                        )));
                    }
                }
            }
            _ => (0, about.layers),
        };
        let holds = |when: &When| self.holds(*when, index, count);
        let rule = rules.iter().find(|rule| rule.part == part && rule.when.iter().all(holds));
        let mut given = rule.map_or(dtype, |rule| rule.dtype);
        if part == Part::Value && about.is_seventy() && matches!(given, DType::Q3K | DType::Q4K) {
            given = DType::Q5K;
        }
        if about.experts == 8 {
            given = match part {
                Part::AttentionOutput if self.mixture.eight_experts && !about.is_falcon() => DType::Q5K,
                _ => BY_EIGHT.iter().find(|(of, _)| *of == part).map_or(given, |&(_, dtype)| dtype),
            };
        }
        Ok(given)
    }

    fn holds(&self, when: When, index: u64, count: u64) -> bool {
        let about = self.about;
        match when {
            When::More => {
                let eighth = count / 8;
                // Below the first eighth the first condition holds already.
                index < eighth || index >= count - count.div_ceil(8) || (index - eighth) % 3 == 2
            }
            When::First(many) => index < many,
            When::FirstOf(parts) => index < count / parts,
            When::Grouped => about.key_heads > 0 && about.heads / about.key_heads >= 4,
            When::Importance => self.choice.importance,
            When::NoImportance => !self.choice.importance,
            When::Falcon => about.is_falcon(),
            When::NotFalcon => !about.is_falcon(),
            When::NotEight => about.experts != 8,
        }
    }
}

/// The type itself, or one that the tensor's rows fill.
pub fn fall_back(dtype: DType, tensor: Tensor<'_>) -> Given {
    let columns = tensor.shape.last().copied().unwrap_or(0);
    let fills = |dtype: DType| columns.is_multiple_of(u64::from(dtype.facts().block_elements));
    if fills(dtype) {
        return Given::Type(dtype);
    }
    let smaller = FALLBACKS.iter().find(|(of, _)| *of == dtype).map_or(dtype, |&(_, to)| to);
    let given = if fills(smaller) { smaller } else { DType::F16 };
    Given::Fallback { dtype: given, instead_of: dtype }
}
