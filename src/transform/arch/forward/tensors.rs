//! The tensors that a pass reads, by name, held against those that there are.
//!
//! Rows of families say what a checkpoint must have; which of its forms a layer has (dense or experts, queries whole or
//! compressed) they leave to the tensors. The config says it too, and where the two disagree a pass would ask for what
//! is not there: found here, before anything is loaded.

use super::{Attention, Forward, Gate, HeadNorm, Layer, Mlp, Projections};
use crate::error::{Error, Result};
use std::collections::HashSet;

impl Forward {
    /// Whether `made` has each tensor that a pass cannot be without.
    pub(super) fn check(&self, made: &HashSet<&str>) -> Result<()> {
        let whole = [
            ("token_embd", true),
            ("position_embd", self.embedding.positions),
            ("token_types", self.embedding.types),
            ("token_embd_norm", self.embedding.norm.is_some()),
            ("output_norm", self.final_norm.is_some()),
            ("output", self.head.as_ref().is_some_and(|head| !head.tied)),
        ];
        for (stem, _) in whole.into_iter().filter(|(_, needed)| *needed) {
            need(made, format!("{stem}.weight"))?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            layer.tensors().try_for_each(|name| need(made, format!("blk.{index}.{name}")))?;
        }
        Ok(())
    }
}

fn need(made: &HashSet<&str>, name: String) -> Result<()> {
    if made.contains(name.as_str()) {
        return Ok(());
    }
    Err(Error::bad_input("is missing, and the model that the config says has it").tensor(name))
}

impl Layer {
    /// What this layer reads, behind `blk.N.`.
    fn tensors(&self) -> impl Iterator<Item = String> {
        let n = self.norms;
        let norms = [n.attention_in, n.attention_out, n.attention_sum, n.mlp_in, n.mlp_out, n.mlp_sum];
        let stems = norms.into_iter().flatten().chain(self.attention.stems()).chain(self.mlp.stems());
        let whole = [
            (self.attention.sinks, "attn_sinks.weight"),
            (matches!(&self.mlp, Mlp::Experts(e) if e.correction), "exp_probs_b.bias"),
        ];
        let whole = whole.into_iter().filter(|(there, _)| *there).map(|(_, name)| name.to_owned());
        stems.map(|stem| format!("{stem}.weight")).chain(whole)
    }
}

impl Attention {
    fn stems(&self) -> impl Iterator<Item = &'static str> {
        let projections: &[&str] = match self.projections {
            Projections::Separate => &["attn_q", "attn_k", "attn_v"],
            Projections::Fused => &["attn_qkv"],
            Projections::Latent { queries: false, .. } => {
                &["attn_kv_a_mqa", "attn_kv_a_norm", "attn_k_b", "attn_v_b", "attn_q"]
            }
            Projections::Latent { .. } => &[
                "attn_kv_a_mqa",
                "attn_kv_a_norm",
                "attn_k_b",
                "attn_v_b",
                "attn_q_a",
                "attn_q_a_norm",
                "attn_q_b",
            ],
        };
        let norms: &[&str] = match self.head_norm {
            HeadNorm::EachHead(_) | HeadNorm::AllHeads(_) => &["attn_q_norm", "attn_k_norm"],
            HeadNorm::None | HeadNorm::BareAfterRope(_) => &[],
        };
        projections.iter().chain(norms).copied().chain(["attn_output"])
    }
}

impl Mlp {
    fn stems(&self) -> impl Iterator<Item = &'static str> {
        let (own, shared): (&[&str], bool) = match self {
            Mlp::Dense { gate: Gate::Separate, .. } => (&["ffn_up", "ffn_gate", "ffn_down"], false),
            Mlp::Dense { .. } => (&["ffn_up", "ffn_down"], false),
            Mlp::Experts(experts) => {
                (&["ffn_gate_inp", "ffn_up_exps", "ffn_gate_exps", "ffn_down_exps"], experts.shared)
            }
        };
        let shared: &[&str] =
            if shared { &["ffn_up_shexp", "ffn_gate_shexp", "ffn_down_shexp"] } else { &[] };
        own.iter().chain(shared).copied()
    }
}
