"""Makes testdata/golden/packings: small matrices in the layouts of quantised checkpoints, each packed by the tool that owns
the layout, and the numbers that the tool's own reader makes of them.

Usage: python packings.py OUT

Each folder is a checkpoint (config.json, model.safetensors); expected.safetensors holds `FOLDER/NAME` = what a client sees, and
in its metadata the versions of the packages. Needs torch, safetensors, compressed-tensors, gptqmodel, bitsandbytes, torchao, mlx.
"""

import json
import os
import shutil
import sys
from importlib.metadata import version

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TORCHDYNAMO_DISABLE"] = "1"
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path = [p for p in sys.path if os.path.abspath(p) != HERE]  # its neighbour torch.py is not the package
import torch
from safetensors.torch import save_file

OUT = sys.argv[1]
EXPECTED = {}


def matrix(*shape, seed):
    """Heavy-tailed numbers, a group of zeros among them, in bf16."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random) / torch.rand(shape, generator=random).clamp(min=0.05) * 0.02
    x.view(-1)[: min(64, x.numel() // 4)] = 0
    return x.to(torch.bfloat16)


def write(folder, tensors, config, expected, dtype="bfloat16", metadata=None):
    """A checkpoint, and what its client makes of it."""
    path = f"{OUT}/{folder}"
    os.makedirs(path)
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, f"{path}/model.safetensors", metadata={"format": "pt", **(metadata or {})})
    with open(f"{path}/config.json", "w") as file:
        json.dump({"dtype": dtype, **config}, file)
        file.write("\n")
    for name, x in expected.items():
        EXPECTED[f"{folder}/{name}"] = x.contiguous()


# ---------------------------------------------------------------------------------------------- compressed-tensors

from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams


def compressed(folder, format, args, matrices, dtype=torch.bfloat16):
    """compressed-tensors, with scales from each group's extremes."""
    weights = QuantizationArgs(**args)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, format=format)
    tool = BaseCompressor.get_value_from_registry(format)
    tensors, expected = {}, {}
    for name, w in matrices.items():
        w = w.to(dtype)
        rows, columns = w.shape
        if weights.strategy == "tensor":
            low, high = w.min().reshape(1), w.max().reshape(1)
        elif weights.strategy == "block":
            blocks = w.reshape(rows // 128, 128, columns // 128, 128)
            low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
        else:
            group = weights.group_size or columns
            groups = w.reshape(rows, columns // group, group)
            low, high = groups.amin(-1), groups.amax(-1)
        state = {"weight": w}
        if format == "nvfp4-pack-quantized":
            total = 448 * 6 / w.abs().max().float()
            state["weight_global_scale"] = total.reshape(1)
            scale, zero = calculate_qparams(low.float(), high.float(), weights, global_scale=total)
        else:
            scale, zero = calculate_qparams(low, high, weights)
        state["weight_scale"] = scale if "fp4" in format else scale.to(dtype)
        state["weight_zero_point"] = zero.to(torch.int8)
        packed = tool.compress(state, scheme)
        back = tool.decompress(dict(packed), scheme)
        for key, tensor in packed.items():
            tensors[f"{name}.{key}"] = tensor
        expected[f"{name}.weight"] = back["weight"]
    groups = {"group_0": {"targets": ["Linear"], "format": format, "weights": json.loads(weights.model_dump_json())}}
    write(
        folder,
        tensors,
        {"quantization_config": {"quant_method": "compressed-tensors", "format": format, "config_groups": groups}},
        expected,
        dtype=str(dtype).removeprefix("torch."),
    )


def all_compressed():
    two = {"a": matrix(24, 128, seed=1), "b": matrix(17, 256, seed=2)}
    odd = {"a": matrix(9, 77, seed=3), "b": matrix(16, 64, seed=4)}
    base = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
    channel = base | {"strategy": "channel", "group_size": None}
    asymmetric = {"symmetric": False}
    pack = "pack-quantized"
    compressed("ct_sym", pack, base, two)
    compressed("ct_asym", pack, base | asymmetric | {"group_size": 64}, two)
    compressed("ct_channel", pack, channel, odd)
    compressed("ct_channel_asym", pack, channel | asymmetric, odd)
    compressed("ct_asym_f16", pack, base | asymmetric, two, dtype=torch.float16)
    compressed("ct_8bit_asym", pack, base | asymmetric | {"num_bits": 8}, two)
    compressed("ct_int8", "int-quantized", channel | {"num_bits": 8}, odd)
    compressed("ct_int8_asym", "int-quantized", channel | asymmetric | {"num_bits": 8}, odd)
    eight = channel | {"num_bits": 8, "type": "float"}
    compressed("ct_fp8", "float-quantized", eight, two)
    compressed("ct_fp8_tensor", "float-quantized", eight | {"strategy": "tensor"}, two)
    blocks = {"a": matrix(256, 128, seed=5)}
    structure = {"strategy": "block", "block_structure": [128, 128]}
    compressed("ct_fp8_block", "float-quantized", eight | structure, blocks)
    four = base | {"type": "float"}
    compressed("ct_mxfp4", "mxfp4-pack-quantized", four | {"scale_dtype": "torch.uint8"}, two)
    small = {"strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"}
    compressed("ct_nvfp4", "nvfp4-pack-quantized", four | small, two)


# --------------------------------------------------------------------------------------------------- GPTQ and AWQ


def grid(w, bits, group, symmetric, order):
    """Scales and zero points [rows, groups] of groups of `order`'s columns, from their extremes."""
    rows, columns = w.shape
    x = w.float()[:, order].reshape(rows, columns // group, group)
    low, high = x.amin(-1).clamp(max=0), x.amax(-1).clamp(min=0)
    top = 2**bits - 1
    if symmetric:
        scale = torch.maximum(-low, high) * 2 / top
        zero = torch.full_like(scale, (top + 1) // 2)
    else:
        scale = (high - low) / top
        zero = (-low / scale.clamp(min=1e-9)).round()
    return scale.clamp(min=1e-4), zero.clamp(0, top)


def gptq(folder, bits, group, symmetric, act_order, format, matrices, scale_dtype=torch.float16):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module, convert_gptq_v2_to_v1_format_module

    class Config:
        pass

    tensors, expected = {}, {}
    for number, (name, w) in enumerate(matrices.items()):
        rows, columns = w.shape
        each = columns if group == -1 else group
        order = torch.arange(columns)
        if act_order:
            order = torch.randperm(columns, generator=torch.Generator().manual_seed(90 + number))
        g_idx = torch.empty(columns, dtype=torch.int32)
        g_idx[order] = (torch.arange(columns) // each).to(torch.int32)
        scale, zero = grid(w, bits, each, symmetric, order)
        if format == "gptq":
            # v1 cannot hold zero point 0; one matrix has it all the same, for what readers make of that.
            zero = zero if name == "carry" else zero.clamp(min=1)
        scale = scale.to(scale_dtype)
        module = TorchLinear(
            bits=bits,
            group_size=group,
            sym=symmetric,
            desc_act=act_order,
            in_features=columns,
            out_features=rows,
            bias=False,
            pack_dtype=torch.int32,
            register_buffers=True,
        )
        linear = torch.nn.Linear(columns, rows, bias=False)
        linear.weight.data = w.float()
        module.pack(linear, scale.float(), zero, g_idx, workers=1)
        module.scales = module.scales.to(scale_dtype)
        if format == "gptq":
            config = Config()
            config.bits, config.pack_dtype = bits, torch.int32
            convert_gptq_v2_to_v1_format_module(module, config)
        for key in ("qweight", "qzeros", "scales", "g_idx"):
            tensors[f"{name}.{key}"] = getattr(module, key).detach().clone()
        if format == "gptq":
            convert_gptq_v1_to_v2_format_module(module, bits, torch.int32)
        module.post_init()
        expected[f"{name}.weight"] = module.dequantize_weight().T.to(scale_dtype)
    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "sym": symmetric,
        "desc_act": act_order,
        "checkpoint_format": format,
    }
    write(folder, tensors, {"quantization_config": config}, expected, dtype="float16")


def all_gptq():
    two = {"a": matrix(32, 128, seed=11), "b": matrix(64, 64, seed=12)}
    gptq("gptq_sym", 4, 32, True, False, "gptq", two)
    gptq("gptq_asym", 4, 64, False, False, "gptq", two | {"carry": matrix(32, 128, seed=13).abs()})
    gptq("gptq_act_order", 4, 32, False, True, "gptq", two)
    gptq("gptq_v2", 4, 64, False, False, "gptq_v2", two)
    gptq("gptq_v2_act_order", 4, 32, False, True, "gptq_v2", two)
    gptq("gptq_channel", 4, -1, True, False, "gptq", two)
    gptq("gptq_8bit", 8, 32, False, False, "gptq", two)
    gptq("gptq_bf16", 4, 32, True, False, "gptq", two, scale_dtype=torch.bfloat16)


def all_awq():
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm, pack_awq

    for folder, group in (("awq", 32), ("awq_channel", -1)):
        tensors, expected = {}, {}
        for name, w in {"a": matrix(24, 128, seed=21), "b": matrix(16, 256, seed=22)}.items():
            rows, columns = w.shape
            each = columns if group == -1 else group
            scale, zero = grid(w, 4, each, False, torch.arange(columns))
            scale = scale.to(torch.float16)
            x = w.float().reshape(rows, columns // each, each)
            codes = (x / scale.float()[..., None] + zero[..., None]).round().clamp(0, 15).reshape(rows, columns)
            codes, zeros = codes.T.to(torch.int32).contiguous(), zero.T.to(torch.int32).contiguous()
            qweight, qzeros = pack_awq(codes, zeros, 4)
            scales = scale.T.contiguous()
            tensors |= {f"{name}.qweight": qweight, f"{name}.qzeros": qzeros, f"{name}.scales": scales}
            expected[f"{name}.weight"] = dequantize_gemm(qweight, qzeros, scales, 4, each).T
        config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
        write(folder, tensors, {"quantization_config": config}, expected, dtype="float16")


# --------------------------------------------------------------------------------------------------- bitsandbytes


def all_bitsandbytes():
    import bitsandbytes.functional as bnb

    for kind in ("nf4", "fp4"):
        for double in (False, True):
            tensors, expected = {}, {}
            matrices = {"a": matrix(24, 128, seed=31), "b": matrix(17, 36, seed=32), "c": matrix(160, 128, seed=33)}
            for name, w in matrices.items():
                codes, state = bnb.quantize_4bit(w, blocksize=64, quant_type=kind, compress_statistics=double)
                tensors[f"{name}.weight"] = codes
                for key, tensor in state.as_dict(packed=True).items():
                    tensors[f"{name}.weight.{key}"] = tensor
                expected[f"{name}.weight"] = bnb.dequantize_4bit(codes, state)
            config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
            write(f"{kind}_double" if double else kind, tensors, {"quantization_config": config}, expected)
    tensors, expected = {}, {}
    for name, w in {"a": matrix(24, 128, seed=34), "b": matrix(17, 36, seed=35)}.items():
        codes, scales, _ = bnb.int8_vectorwise_quant(w.to(torch.float16))
        tensors |= {f"{name}.weight": codes, f"{name}.SCB": scales}
        tensors[f"{name}.weight_format"] = torch.tensor(0, dtype=torch.uint8)
        expected[f"{name}.weight"] = bnb.int8_vectorwise_dequant(codes, scales).to(torch.float16)
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    write("bnb_int8", tensors, {"quantization_config": config}, expected, dtype="float16")


# ------------------------------------------------------------------------------------------------------------ MLX


def all_mlx():
    import mlx.core as mx

    def to_mlx(x):
        kind = {torch.bfloat16: mx.bfloat16, torch.float16: mx.float16}[x.dtype]
        return mx.array(x.float().numpy()).astype(kind)

    def to_torch(x):
        if x.dtype == mx.uint32:
            return torch.tensor(x.tolist(), dtype=torch.uint32)
        kind = {mx.bfloat16: torch.bfloat16, mx.float16: torch.float16}[x.dtype]
        return torch.tensor(x.astype(mx.float32).tolist()).to(kind)

    mx.set_default_device(mx.cpu)
    for bits, group, dtype in (
        (4, 64, torch.bfloat16),
        (8, 32, torch.bfloat16),
        (2, 32, torch.bfloat16),
        (3, 64, torch.bfloat16),
        (5, 64, torch.bfloat16),
        (6, 128, torch.bfloat16),
        (4, 32, torch.float16),
    ):
        tensors, expected = {}, {}
        matrices = {"a": matrix(24, 128, seed=41), "b": matrix(17, 256, seed=42)}
        if bits == 4:
            matrices["mlp.switch_mlp.up_proj"] = matrix(3, 8, 128, seed=43)
        for name, w in matrices.items():
            packed = mx.quantize(to_mlx(w.to(dtype)), group_size=group, bits=bits)
            for key, tensor in zip(("weight", "scales", "biases"), packed):
                tensors[f"{name}.{key}"] = to_torch(tensor)
            back = mx.dequantize(*packed, group_size=group, bits=bits)
            expected[f"{name}.weight"] = to_torch(back)
        name = str(dtype).removeprefix("torch.")
        folder = f"mlx_{bits}bit" + ("" if dtype == torch.bfloat16 else "_f16")
        config = {"group_size": group, "bits": bits, "mode": "affine"}
        write(folder, tensors, {"quantization": config, "quantization_config": config}, expected, dtype=name)


# -------------------------------------------------------------------------------------------------------- torchao


def all_torchao():
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Int4Tensor, IntxUnpackedToInt8Tensor
    from torchao.quantization.quant_primitives import MappingType

    matrices = {"a": matrix(24, 128, seed=51), "b": matrix(17, 256, seed=52)}

    def save(folder, state, expected):
        tensors, metadata = flatten_tensor_state_dict(state)
        write(folder, tensors, {"quantization_config": {"quant_method": "torchao"}}, expected, metadata=metadata)

    for folder, mapping in (("torchao_intx", MappingType.SYMMETRIC), ("torchao_intx_asym", MappingType.ASYMMETRIC)):
        state, expected = {}, {}
        for name, w in matrices.items():
            x = IntxUnpackedToInt8Tensor.from_hp(w, (1, 32), torch.int4, mapping_type=mapping)
            state[f"{name}.weight"] = x
            expected[f"{name}.weight"] = x.dequantize()
        save(folder, state, expected)

    # `Int4Tensor` is made by a package of GPU kernels. The class holds what is given to it; what it means is said by that
    # package's `int4_row_quantize_zp` (a zero point is the number that code zero stands for) and `pack_int4` (signed
    # nibbles, the even column in the lower half).
    state, expected = {}, {}
    for name, w in matrices.items():
        x = w.float().reshape(w.shape[0], -1, 64)
        low, high = x.amin(-1), x.amax(-1)
        scale = ((high - low) / 15).clamp(min=1e-6)
        zero = low + scale * 8
        codes = ((x - zero[..., None]) / scale[..., None]).round().clamp(-8, 7).to(torch.int8).reshape(w.shape)
        packed = (codes[:, ::2] & 0xF) | (codes[:, 1::2] << 4)
        scale, zero = scale.to(torch.bfloat16), zero.to(torch.bfloat16)
        state[f"{name}.weight"] = Int4Tensor(
            packed.contiguous(), scale.T.contiguous(), zero.T.contiguous(), [1, 64], w.shape
        )
        back = codes.float().reshape(x.shape) * scale.float()[..., None] + zero.float()[..., None]
        expected[f"{name}.weight"] = back.reshape(w.shape).to(torch.bfloat16)
    save("torchao_int4", state, expected)


shutil.rmtree(OUT, ignore_errors=True)
os.makedirs(OUT)
all_compressed()
all_gptq()
all_awq()
all_bitsandbytes()
all_mlx()
all_torchao()
packages = ("torch", "compressed-tensors", "gptqmodel", "bitsandbytes", "torchao", "mlx")
save_file(EXPECTED, f"{OUT}/expected.safetensors", metadata={name: version(name) for name in packages})
