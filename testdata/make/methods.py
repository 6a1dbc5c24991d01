"""Codes, scales and zero points that the reference tools give, for hoist's round-to-nearest.

    python testdata/make/methods.py

One file a tool. `weight` holds numbers of bf16 as f32, the last rows with groups that are all zeros, all of one sign, constant,
tiny and with one outlier; each case has `CASE.codes` (u8, one a number, counted from zero), `CASE.scales` and, where there are
some, `CASE.zeros` (f32, as stored). The header's metadata holds the versions that were run. All arithmetic is f32: the tools'
own in bf16 loses codes to rounding.
"""

import importlib.metadata as versions
import pathlib
import sys
from types import SimpleNamespace

HERE = pathlib.Path(__file__).resolve().parent
# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

OUT = HERE.parent / "golden" / "methods"
ROWS, COLUMNS = 16, 256
PLAIN_ROWS = 12


def weight():
    """Heavy-tailed rows, then rows with groups that rules treat apart."""
    rng = np.random.default_rng(6)
    w = 0.02 * rng.standard_t(5, (ROWS, COLUMNS)).astype(np.float32)
    w[12, :128], w[12, 128:] = 0.0, 0.03125
    w[13, :128], w[13, 128:] = abs(w[13, :128]) + 0.01, -abs(w[13, 128:]) - 0.01
    w[14, 7], w[14, 200] = 3.0, -2.5
    w[15, :64], w[15, 64:128], w[15, 128:192], w[15, 192:] = w[15, :64] * 1e-6, w[15, 64:128] * 1e3, -0.25, -0.0
    return torch.from_numpy(w).to(torch.bfloat16).float()


def tail():
    """A number of elements that no group divides."""
    rng = np.random.default_rng(7)
    return torch.from_numpy(0.02 * rng.standard_t(5, (3, 50)).astype(np.float32)).to(torch.bfloat16).float()


W = weight()


def grouped(w, size):
    return w.reshape(w.shape[0], -1, size)


def put(tensors, case, codes, scales, zeros=None):
    tensors[f"{case}.codes"] = codes.to(torch.uint8).contiguous()
    tensors[f"{case}.scales"] = scales.float().contiguous()
    if zeros is not None:
        tensors[f"{case}.zeros"] = zeros.float().contiguous()


def save(name, tensors, *packages):
    OUT.mkdir(parents=True, exist_ok=True)
    metadata = {package: versions.version(package) for package in ("torch", *packages)}
    save_file(tensors, OUT / f"{name}.safetensors", metadata=metadata)
    (OUT / f"{name}.safetensors").chmod(0o644)
    print(name, metadata, sum(t.numel() * t.element_size() for t in tensors.values()))


def compressed_tensors():
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    tensors = {"weight": W}

    def case(name, stored, blocks=None, **kwargs):
        args = QuantizationArgs(**kwargs)
        if blocks:
            height, width = blocks
            x = W.reshape(ROWS // height, height, COLUMNS // width, width).transpose(1, 2).flatten(2)
        else:
            x = grouped(W, args.group_size or COLUMNS)
        options = {}
        if args.strategy == "tensor_group":
            options["global_scale"] = generate_gparam(W.min(), W.max())
            tensors[f"{name}.global"] = options["global_scale"]
        scale, zero = calculate_qparams(x.amin(-1), x.amax(-1), args, **options)
        scale = scale.to(stored).float()
        codes = quantize(W, scale, None if args.symmetric else zero, args, **options)
        if args.type == "int":
            half = 1 << (args.num_bits - 1)
            zeros = None if args.symmetric else zero.float() + half
            put(tensors, name, codes + half, scale, zeros)
        elif args.num_bits == 8:
            put(tensors, name, codes.to(torch.float8_e4m3fn).view(torch.uint8), scale)
        else:
            from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8

            packed = pack_fp4_to_uint8(codes)
            nibbles = torch.stack([packed & 15, packed >> 4], -1).reshape(ROWS, COLUMNS)
            put(tensors, name, nibbles, scale)

    for symmetric in (True, False):
        sign = "sym" if symmetric else "asym"
        for size in (128, 32):
            case(f"int4_{sign}_g{size}", torch.bfloat16, num_bits=4, strategy="group", group_size=size, symmetric=symmetric)
        case(f"int4_{sign}_channel", torch.float16, num_bits=4, strategy="channel", symmetric=symmetric)
        case(f"int8_{sign}_channel", torch.bfloat16, num_bits=8, strategy="channel", symmetric=symmetric)
    case("fp8_channel", torch.bfloat16, num_bits=8, type="float", strategy="channel", symmetric=True)
    blocks = (8, 64)
    case("fp8_block", torch.float32, blocks, num_bits=8, type="float", strategy="block", block_structure=list(blocks), symmetric=True)
    four = {"num_bits": 4, "type": "float", "symmetric": True}
    case("mxfp4", torch.float32, **four, strategy="group", group_size=32, scale_dtype=torch.uint8)
    case("nvfp4", torch.float32, **four, strategy="tensor_group", group_size=16, scale_dtype=torch.float8_e4m3fn)
    save("compressed_tensors", tensors, "compressed-tensors")


def gptq():
    from gptqmodel.quantization.quantizer import Quantizer, quantize

    # Rows whose groups have both signs: of others the tool takes half the scale, and clips them.
    w = W[:PLAIN_ROWS].contiguous()
    tensors = {"weight": w}
    for symmetric in (True, False):
        for size in (128, 32):
            quantizer = Quantizer(SimpleNamespace(sym=symmetric, bits=4, mse=0.0), name="")
            quantizer.configure(perchannel=True)
            x = w.reshape(-1, size)
            quantizer.find_params(x, weight=True)
            scale, zero = quantizer.scale.reshape(-1, 1), quantizer.zero.reshape(-1, 1)
            numbers = quantize(x, scale, zero, 15, False)
            codes = torch.round(numbers / scale) + zero
            shape = (PLAIN_ROWS, COLUMNS // size)
            stored = scale.half().float().reshape(shape)
            zeros = None if symmetric else zero.reshape(shape)
            put(tensors, f"{'sym' if symmetric else 'asym'}_g{size}", codes.reshape(w.shape), stored, zeros)
    save("gptq", tensors, "gptqmodel")


def awq():
    from gptqmodel.looper.awq_processor import AWQProcessor
    from gptqmodel.nn_modules.qlinear.gemm_awq import AwqGEMMLinear

    # Rows without groups of one sign: the packer does not clamp codes, and writes over their neighbours.
    w = W[:PLAIN_ROWS].repeat(2, 1)[:16]
    tensors = {"weight": w}
    for size in (128, 32):
        tool = SimpleNamespace(qcfg=SimpleNamespace(group_size=size, sym=False, bits=4))
        _, scales, zeros = AWQProcessor.pseudo_quantize_tensor(tool, w.clone())
        packed = SimpleNamespace(bits=4, in_features=COLUMNS, group_size=size)
        packed.register_buffer = lambda name, value: setattr(packed, name, value)
        AwqGEMMLinear.pack(packed, SimpleNamespace(weight=torch.nn.Parameter(w), bias=None), scales, zeros)
        order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
        nibbles = (packed.qweight.unsqueeze(-1) >> (4 * order)) & 15
        put(tensors, f"asym_g{size}", nibbles.reshape(COLUMNS, 16).T, packed.scales.float().T, zeros)
    save("awq", tensors, "gptqmodel")


def mlx():
    import mlx.core as mx

    tensors = {"weight": W}
    for bits in (4, 8):
        for size in (64, 32):
            packed, scales, biases = mx.quantize(mx.array(W.numpy()), group_size=size, bits=bits)
            words = torch.from_numpy(np.array(packed).view(np.int32).copy()).unsqueeze(-1)
            codes = (words >> (bits * torch.arange(32 // bits))) & ((1 << bits) - 1)
            scales, biases = (torch.from_numpy(np.array(x)).to(torch.bfloat16) for x in (scales, biases))
            put(tensors, f"int{bits}_g{size}", codes.reshape(W.shape), scales, biases)
    save("mlx", tensors, "mlx")


def torchao():
    from torchao.quantization.quant_primitives import (
        MappingType,
        _choose_qparams_affine_tinygemm,
        _quantize_affine_tinygemm,
    )

    tensors = {"weight": W}
    for size in (128, 32):
        block = (1, size)
        kwargs = {"scale_dtype": torch.bfloat16, "zero_point_dtype": torch.bfloat16}
        scale, zero = _choose_qparams_affine_tinygemm(W, MappingType.ASYMMETRIC, block, torch.int32, 0, 15, **kwargs)
        scale, zero = scale.float(), zero.float()
        codes = _quantize_affine_tinygemm(W, block, scale, zero, torch.int32, 0, 15)
        shape = (ROWS, COLUMNS // size)
        put(tensors, f"int4_g{size}", codes, scale.reshape(shape), zero.reshape(shape))
    save("torchao", tensors, "torchao")


def bitsandbytes():
    import bitsandbytes.functional as bnb

    tensors = {"weight": W, "tail": tail()}
    for case, w in (("nf4", W), ("nf4_tail", tensors["tail"])):
        packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=False)
        codes = torch.stack([packed >> 4, packed & 15], -1).reshape(-1)[: w.numel()]
        put(tensors, case, codes.reshape(w.shape), state.absmax)
        tensors["table"] = state.code.float().contiguous()
    save("bitsandbytes", tensors, "bitsandbytes")


def hqq():
    from hqq.core.quantize import Quantizer

    w = W[:PLAIN_ROWS].contiguous()
    tensors = {"weight": w}
    for size in (128, 64):
        codes, meta = Quantizer.quantize(w, nbits=4, group_size=size, axis=1, bitpack=False, device="cpu", channel_wise=True)
        numbers = (codes - meta["zero"]) * meta["scale"]
        tensors[f"g{size}.numbers"] = numbers.reshape(w.shape).float().contiguous()
    save("hqq", tensors, "hqq")


for make in (compressed_tensors, gptq, awq, mlx, torchao, bitsandbytes, hqq):
    make()
