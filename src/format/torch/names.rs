//! The closed list of what a pickle may name. Nothing here is ever imported or called: a name is an index into this
//! table, and `rebuild.rs` knows what inert value of our own stands for it. A name that is not here is refused.

use crate::dtype::DType;

/// What an allowed name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `collections.defaultdict`: its first argument is a factory.
    DefaultDict,
    /// `collections.Counter` and `dict`: made from nothing or from a dict.
    Dict,
    /// `list`, `tuple`, `torch.Size`: made from nothing or from a sequence, which stands for itself.
    Sequence,
    /// `set` and `frozenset`.
    Set,
    /// A type that is only mentioned (`int` as a factory, `torch.Tensor` as a class to restore).
    Type,
    /// `torch.nn.Parameter`, `torch.nn.Buffer`: a tensor inside.
    Parameter,
    /// A typed storage.
    Storage(DType),
    /// A storage that counts bytes; the type comes with the tensor.
    UntypedStorage,
    /// An element type.
    DType(DType),
    /// `_rebuild_tensor(storage, offset, size, stride)`.
    RebuildTensor,
    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
    RebuildTensorV2,
    /// `_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`.
    RebuildTensorV3,
    /// `_rebuild_parameter(tensor, requires_grad, hooks)` and its twin with a state.
    RebuildParameter,
    /// `_rebuild_from_type_v2(function, type, arguments, state)`.
    RebuildFromType,
    /// `numpy…multiarray.scalar(dtype, bytes)`.
    NumpyScalar,
    /// `numpy.dtype(code, align, copy)`.
    NumpyDType,
    /// `numpy…multiarray._reconstruct(…)`: an array, kept as something opaque.
    NumpyArray,
    /// `_codecs.encode(text, 'latin1')`: how protocol 2 writes bytes.
    CodecsEncode,
    /// A value that is built and never looked into (`torch.device`, `complex`, a trainer's `Namespace`).
    Opaque,
}

/// What the table says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Row {
    /// Allowed.
    Inert(What),
    /// Known, and not handled: what it is, and what to do.
    Unsupported(&'static str, &'static str),
}

use Row::{Inert, Unsupported};

const DENSE: &str = "call .to_dense() on it and save again";
const DEQUANTISE: &str = "call .dequantize() on it and save again";
const PLAIN: &str = "save plain tensors: torch.save({k: v.detach().cpu().clone() for k, v in …}, FILE)";
const STATE_DICT: &str = "save the state dict instead: torch.save(module.state_dict(), FILE)";

/// Modules under the names of Python 3, names, and what they stand for.
#[rustfmt::skip]
const TABLE: &[(&str, &str, Row)] = &[
    ("collections", "OrderedDict", Inert(What::OrderedDict)),
    ("collections", "defaultdict", Inert(What::DefaultDict)),
    ("collections", "Counter", Inert(What::Dict)),
    ("builtins", "dict", Inert(What::Dict)),
    ("builtins", "list", Inert(What::Sequence)),
    ("builtins", "tuple", Inert(What::Sequence)),
    ("builtins", "set", Inert(What::Set)),
    ("builtins", "frozenset", Inert(What::Set)),
    ("builtins", "int", Inert(What::Type)),
    ("builtins", "long", Inert(What::Type)), // Python 2's int, as protocol 2 still calls it
    ("builtins", "float", Inert(What::Type)),
    ("builtins", "unicode", Inert(What::Type)), // and its str
    ("builtins", "str", Inert(What::Type)),
    ("builtins", "bool", Inert(What::Type)),
    ("builtins", "complex", Inert(What::Opaque)),
    ("builtins", "bytearray", Inert(What::Opaque)),
    ("torch", "Size", Inert(What::Sequence)),
    ("torch", "device", Inert(What::Opaque)),
    ("torch", "Tensor", Inert(What::Type)),
    ("torch._tensor", "Tensor", Inert(What::Type)),
    ("torch.nn.parameter", "Parameter", Inert(What::Parameter)),
    ("torch.nn.parameter", "Buffer", Inert(What::Parameter)),
    ("torch.serialization", "_get_layout", Inert(What::Opaque)),
    ("argparse", "Namespace", Inert(What::Opaque)),
    ("torch._utils", "_rebuild_tensor", Inert(What::RebuildTensor)),
    ("torch._utils", "_rebuild_tensor_v2", Inert(What::RebuildTensorV2)),
    ("torch._utils", "_rebuild_tensor_v3", Inert(What::RebuildTensorV3)),
    ("torch._utils", "_rebuild_parameter", Inert(What::RebuildParameter)),
    ("torch._utils", "_rebuild_parameter_with_state", Inert(What::RebuildParameter)),
    ("torch._tensor", "_rebuild_from_type_v2", Inert(What::RebuildFromType)),
    ("torch.storage", "UntypedStorage", Inert(What::UntypedStorage)),
    ("torch.storage", "TypedStorage", Inert(What::UntypedStorage)),
    ("torch", "UntypedStorage", Inert(What::UntypedStorage)),
    ("torch.cuda", "UntypedStorage", Inert(What::UntypedStorage)),
    ("numpy", "dtype", Inert(What::NumpyDType)),
    ("numpy", "ndarray", Inert(What::Type)),
    ("numpy.core.multiarray", "scalar", Inert(What::NumpyScalar)),
    ("numpy._core.multiarray", "scalar", Inert(What::NumpyScalar)),
    ("numpy.core.multiarray", "_reconstruct", Inert(What::NumpyArray)),
    ("numpy._core.multiarray", "_reconstruct", Inert(What::NumpyArray)),
    ("_codecs", "encode", Inert(What::CodecsEncode)),
    ("torch._utils", "_rebuild_sparse_tensor", Unsupported("a sparse tensor", DENSE)),
    ("torch._utils", "_rebuild_sparse_csr_tensor", Unsupported("a sparse tensor", DENSE)),
    ("torch._utils", "_rebuild_nested_tensor", Unsupported("a nested tensor", PLAIN)),
    ("torch._utils", "_rebuild_qtensor", Unsupported("a quantized tensor of torch", DEQUANTISE)),
    ("torch._utils", "_rebuild_wrapper_subclass", Unsupported("a tensor subclass without data of its own", PLAIN)),
    ("torch._utils", "_rebuild_meta_tensor_no_storage", Unsupported("a tensor on the `meta` device, which has no data", PLAIN)),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", Unsupported("a device's tensor kept as a numpy array", PLAIN)),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", Unsupported("a device's tensor kept by its own rules", PLAIN)),
    ("torch._utils", "_rebuild_xla_tensor", Unsupported("an XLA tensor", PLAIN)),
    ("torch.storage", "_load_from_bytes", Unsupported("a torch file inside the pickle", PLAIN)),
    ("torch._tensor", "_rebuild_from_type", Unsupported("a tensor subclass", PLAIN)),
    ("torch.distributed.tensor", "DTensor", Unsupported("a distributed tensor", "save full tensors: DTensor.full_tensor()")),
    ("torch.distributed._tensor.api", "DTensor", Unsupported("a distributed tensor", "save full tensors: DTensor.full_tensor()")),
];

/// Storage classes and the types of their elements.
const STORAGES: &[(&str, DType)] = &[
    ("DoubleStorage", DType::F64),
    ("FloatStorage", DType::F32),
    ("HalfStorage", DType::F16),
    ("BFloat16Storage", DType::BF16),
    ("LongStorage", DType::I64),
    ("IntStorage", DType::I32),
    ("ShortStorage", DType::I16),
    ("CharStorage", DType::I8),
    ("ByteStorage", DType::U8),
    ("BoolStorage", DType::Bool),
    ("ComplexFloatStorage", DType::C64),
    ("ComplexDoubleStorage", DType::C128),
];

/// Names of torch that belong to its quantised tensors.
const QUANTISED: &[&str] = &[
    "QInt8Storage",
    "QUInt8Storage",
    "QInt32Storage",
    "QUInt4x2Storage",
    "QUInt2x4Storage",
    "qint8",
    "quint8",
    "qint32",
    "quint4x2",
    "quint2x4",
    "per_tensor_affine",
    "per_channel_affine",
    "per_channel_affine_float_qparams",
];

/// Types of torch without a place in the table of types.
const OTHER_TYPES: &[&str] = &[
    "bits1x8", "bits2x4", "bits4x2", "bits8", "bits16", "int1", "int2", "int3", "int4", "int5", "int6",
    "int7", "uint1", "uint2", "uint3", "uint4", "uint5", "uint6", "uint7",
];

/// What a name stands for, or `None` for everything that is not in the table. Python 2's module names are known.
pub(super) fn find(module: &[u8], name: &[u8]) -> Option<Row> {
    let module = match std::str::from_utf8(module).ok()? {
        "__builtin__" => "builtins",
        other => other,
    };
    let name = std::str::from_utf8(name).ok()?;
    if matches!(module, "torch" | "torch.cuda") {
        if QUANTISED.contains(&name) {
            return Some(Unsupported("a quantized tensor of torch", DEQUANTISE));
        }
        if OTHER_TYPES.contains(&name) {
            return Some(Unsupported(
                "a type that hoist does not read",
                "view it as torch.uint8 and save again",
            ));
        }
        if let Some(&(_, dtype)) = STORAGES.iter().find(|(n, _)| *n == name) {
            return Some(Inert(What::Storage(dtype)));
        }
    }
    if module == "torch"
        && let Some(dtype) = DType::from_torch(name)
    {
        return Some(Inert(What::DType(dtype)));
    }
    if module == "torch.jit" || module.starts_with("torch.jit.") || module.starts_with("__torch__") {
        return Some(Unsupported("a TorchScript program", STATE_DICT));
    }
    TABLE.iter().find(|(m, n, _)| *m == module && *n == name).map(|&(.., row)| row)
}

/// The class of storages of this type, in the module `torch`; types that came after storages lost their types have none.
pub(super) fn storage_class(dtype: DType) -> Option<&'static str> {
    STORAGES.iter().find(|row| row.1 == dtype).map(|row| row.0)
}

/// What to do about a name that is refused, where it is plain how it came there.
pub(super) fn hint(module: &[u8]) -> Option<&'static str> {
    let whole_module = module.starts_with(b"torch.nn.modules") || module == b"__main__";
    whole_module.then_some(STATE_DICT)
}
