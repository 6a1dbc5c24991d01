//! Laying a safetensors file out (placeholder).
