//! Experts: from a family's way of choosing them and a config's numbers.

use super::layers::Routed;
use super::{Activation, Experts, Groups, Scope, Scoring};
use crate::error::{Error, Result};
use crate::text::Shown;
use crate::transform::arch::model_config::bad;

/// How a family chooses experts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Routing {
    /// Which layers have them.
    pub layers: Routed,
    pub scoring: Scoring,
    pub correction: bool,
    pub groups: Grouped,
    pub normalise: Normalise,
    /// What the weights are multiplied by.
    pub scale: Option<&'static str>,
    pub scales_input: bool,
    pub shared: Shared,
    /// Whether gate and up are bounded (gpt-oss).
    pub bounded: bool,
}

/// Which groups experts are chosen from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Grouped {
    Never,
    /// By `topk_method`; a group is as good as its best (deepseek_v2).
    ByMethod,
    /// Always; a group is as good as its two best (deepseek_v3).
    TwoBest,
}

/// Whether the weights of the chosen are divided by their sum.
#[derive(Debug, Clone, Copy)]
pub(super) enum Normalise {
    Never,
    Always,
    /// Where `norm_topk_prob` says so, with this added to the sum.
    Said(f32),
}

/// Whether there is an expert for every token.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shared {
    Never,
    Always,
    /// Where `n_shared_experts` is not zero.
    Said,
}

/// Of a family with experts; the rest is said where it differs.
pub(super) const PLAIN: Routing = Routing {
    layers: super::layers::all_routed,
    scoring: Scoring::Softmax,
    correction: false,
    groups: Grouped::Never,
    normalise: Normalise::Never,
    scale: None,
    scales_input: false,
    shared: Shared::Never,
    bounded: false,
};

impl Routing {
    /// With a config's numbers. `activation` is that of dense layers.
    pub(super) fn experts(&self, scope: &Scope<'_>, activation: Activation) -> Result<Experts> {
        let config = scope.config;
        let count = scope.sizes.experts.ok_or_else(|| bad("does not say how many experts there are"))?;
        let used = config.need_count(&["num_experts_per_tok", "num_experts_per_token", "top_k_experts"])?;
        if used == 0 || used > count {
            return Err(bad(format!("`num_experts_per_tok` is `{used}`, and there are {count} experts")));
        }
        let normalise = match self.normalise {
            Normalise::Never => None,
            Normalise::Always => Some(0.0),
            Normalise::Said(added) => config.flag(&["norm_topk_prob"])?.unwrap_or(false).then_some(added),
        };
        let scale = match self.scale {
            None => 1.0,
            Some(key) => config.need_float(&[key])? as f32,
        };
        let activation = match self.bounded {
            false => activation,
            true => Activation::ClampedSwiglu {
                alpha: config.need_float(&["swiglu_alpha"])? as f32,
                limit: scope.positive("swiglu_limit")?,
            },
        };
        Ok(Experts {
            count: scope.size("the number of experts", count)?,
            used: scope.size("num_experts_per_tok", used)?,
            scoring: self.scoring,
            correction: self.correction,
            groups: self.groups(scope, count, used)?,
            normalise,
            scale,
            scales_input: self.scales_input,
            activation,
            shared: match self.shared {
                Shared::Never => false,
                Shared::Always => true,
                Shared::Said => config.count(&["n_shared_experts"])?.unwrap_or(0) > 0,
            },
        })
    }

    fn groups(&self, scope: &Scope<'_>, experts: u64, chosen: u64) -> Result<Option<Groups>> {
        let two_best = match self.groups {
            Grouped::Never => return Ok(None),
            Grouped::TwoBest => true,
            Grouped::ByMethod => match scope.config.text(&["topk_method"])? {
                Some("greedy") => return Ok(None),
                Some("group_limited_greedy") => false,
                other => {
                    return Err(Error::unsupported(format!(
                        "`topk_method` is `{}`, which is not known for `{}`",
                        Shown(other.unwrap_or("null")),
                        scope.family.name()
                    ))
                    .file("config.json"));
                }
            },
        };
        let (count, used) =
            (scope.config.need_count(&["n_group"])?, scope.config.need_count(&["topk_group"])?);
        let each = experts.checked_div(count).unwrap_or(0);
        // The two best of a group of one are nothing that anybody computes.
        let smallest = if two_best && count > 1 { 2 } else { 1 };
        if each.checked_mul(count) != Some(experts)
            || each < smallest
            || used == 0
            || used > count
            || used * each < chosen
        {
            return Err(bad(format!(
                "`n_group` is `{count}` and `topk_group` is `{used}`, from which {chosen} of {experts} experts cannot be chosen"
            )));
        }
        // With all groups chosen from, nothing is left out.
        let count = scope.size("n_group", count)?;
        Ok((used < count as u64).then_some(Groups { count, used: scope.size("topk_group", used)?, two_best }))
    }
}
