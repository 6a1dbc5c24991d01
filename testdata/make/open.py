"""Writes testdata/hostile/detect (files that are no weights) and testdata/hostile/open (directories that are no model).

Run as `python testdata/make/open.py` from the root of the repository. Files of other tools are made by those tools where
Python's standard library has them (tar, gzip, xz, pickle), else from the first bytes of their specification. Beside
each lies NAME.txt: the exit code, and a part of the message.
"""

import bz2
import gzip
import io
import json
import lzma
import pathlib
import pickle
import shutil
import struct
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent / "hostile"


def tar(*names):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def weights(*names, begin=0):
    """A safetensors file of one-byte tensors."""
    header = {n: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, n in enumerate(names)}
    header = json.dumps(header, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + bytes(range(begin, begin + len(names)))


def index(weight_map, **metadata):
    return json.dumps({"metadata": metadata, "weight_map": weight_map}).encode()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 4976698672\n"
PICKLE = {"layer.weight": [1.0, 2.0]}

# name: (content, exit code, part of the message)
FILES = {
    "empty.safetensors": (b"", 1, "is empty"),
    "lfs_pointer.safetensors": (LFS, 1, "is a Git LFS pointer, not the file it stands for\n  hint: git lfs pull"),
    "page.bin": (b"\n<!doctype HTML><html><body>404</body></html>", 1, "is an HTML page: a server answered with it"),
    "page2.bin": (b"<html lang=en>", 1, "is an HTML page"),
    "s3_error.gguf": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", 1, "is an XML document: a server answered"),
    "config.json": (b'{"architectures": ["LlamaForCausalLM"]}', 1, "is a JSON text, not weights\n  hint: name the folder of the model"),
    "torch_0_1.pth": (tar("storages", "tensors", "pickle"), 9, "is PyTorch's tar format"),
    "model.nemo": (tar("./model_config.yaml", "./model_weights.ckpt"), 9, "is a NeMo archive"),
    "archive.tar": (tar("model.safetensors"), 9, "is a tar archive\n  hint: unpack it"),
    "ggml.bin": (b"lmgg" + struct.pack("<I", 32000) * 8, 9, "is in the old `ggml` format, from before GGUF"),
    "ggmf.bin": (b"fmgg" + struct.pack("<I", 1) * 8, 9, "is in the old `ggmf` format"),
    "ggjt.bin": (b"tjgg" + struct.pack("<I", 3) * 8, 9, "is in the old `ggjt` format"),
    "ggla.bin": (b"algg" + struct.pack("<I", 1) * 8, 9, "is in the old `ggla` format"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), 9, "is an HDF5 file"),
    "array.npy": (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 9, "is a NumPy array"),
    "plain_pickle.pkl": (pickle.dumps(PICKLE, protocol=2), 9, "is a pickle that torch.save did not write"),
    "plain_pickle_5.bin": (pickle.dumps(PICKLE, protocol=5), 9, "is a pickle that torch.save did not write"),
    "packed.gz": (gzip.compress(weights("a"), mtime=0), 9, "is compressed with gzip"),
    "packed.xz": (lzma.compress(weights("a")), 9, "is compressed with xz"),
    "packed.bz2": (bz2.compress(weights("a")), 9, "is compressed with bzip2"),
    "packed.zst": (b"\x28\xb5\x2f\xfd\x04\x00\x09\x00\x00abc", 9, "is compressed with zstd"),
    "packed.lz4": (b"\x04\x22\x4d\x18\x64\x40\xa7", 9, "is compressed with LZ4"),
    "packed.7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", 9, "is a 7z archive"),
    "model.tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(24), 9, "is a TensorFlow Lite model"),
    "model.onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.4.0:\x80\x02", 9, "looks like an ONNX model"),
    "data.parquet": (b"PAR1\x15\x04", 9, "is a Parquet file"),
    "data.arrow": (b"ARROW1\0\0", 9, "is an Arrow file"),
    "engine.so": (b"\x7fELF\x02\x01\x01", 9, "is a program or a compiled engine"),
    "flax_model.msgpack": (b"\x81\xa5model\x80", 9, "holds Flax weights in msgpack"),
    "zeros.safetensors": (bytes(4096), 1, "begins with zeros only\n  its space was set aside and the data never came"),
    "zeros.gguf": (bytes(600), 1, "begins with zeros only"),
    "noise.bin": (bytes(range(200, 256)), 9, "is in no format that hoist knows; it begins with `c8 c9 ca cb cc cd ce cf`\n  hint: hoist reads safetensors, PyTorch (.bin, .pt, .pth) and GGUF"),
    "noise.safetensors": (bytes(range(200, 256)), 1, "gives its header a length of 14,974,132,090,529,565,128 bytes"),
    "one_byte.pt": (b"\x80", 9, "is in no format that hoist knows; it begins with `80`"),
    "document.pdf": (b"%PDF-1.7\n", 1, "is a PDF document"),
    "database.bin": (b"SQLite format 3\0", 1, "is an SQLite database"),
    "markdown.bin": (b"# A model card\n\nThis model ...", 9, "is in no format that hoist knows"),
    "text_and_brace.bin": (b"template{% if %}", 9, "is in no format that hoist knows"),
}

SHARD_1, SHARD_2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"

# name: ({path: content}, exit code, part of the message)
DIRECTORIES = {
    "deepspeed": ({"latest": b"global_step10", "zero_to_fp32.py": b"#", "global_step10/mp_rank_00_model_states.pt": b"x"},
                  9, "is a DeepSpeed ZeRO checkpoint"),
    "deepspeed_inner": ({"zero_pp_rank_0_mp_rank_00_optim_states.pt": b"x", "mp_rank_00_model_states.pt": b"x"},
                        9, "is a DeepSpeed ZeRO checkpoint"),
    "fsdp": ({".metadata": b"x", "__0_0.distcp": b"x", "__1_0.distcp": b"x"}, 9, "is a PyTorch distributed checkpoint (FSDP, DCP)"),
    "megatron": ({"latest_checkpointed_iteration.txt": b"10", "iter_0000010/mp_rank_00/model_optim_rng.pt": b"x"}, 9, "is a Megatron checkpoint"),
    "orbax": ({"_CHECKPOINT_METADATA": b"{}", "_METADATA": b"{}", "manifest.ocdbt": b"x", "d/x": b"x"}, 9, "is an Orbax checkpoint of JAX"),
    "keras": ({"config.json": b"{}", "tf_model.h5": b"x"}, 9, "holds Keras or TensorFlow weights"),
    "flax": ({"config.json": b"{}", "flax_model.msgpack": b"x"}, 9, "holds Flax weights in msgpack"),
    "onnx": ({"config.json": b"{}", "model.onnx": b"x"}, 9, "holds an ONNX graph"),
    "tensorflow": ({"model.ckpt.index": b"x", "model.ckpt.data-00000-of-00001": b"x"}, 9, "is a TensorFlow checkpoint or SavedModel"),
    "nemo": ({"llama.nemo": b"x"}, 9, "is a NeMo archive"),
    "engine": ({"rank0.engine": b"x", "config.json": b"{}"}, 9, "holds a compiled model"),
    "meta_parallel": ({"consolidated.00.pth": b"x", "consolidated.01.pth": b"x", "params.json": b"{}"},
                      9, "holds 2 files of a model cut for tensor parallelism"),
    "no_weights": ({"config.json": b"{}", "tokenizer.json": b"{}", "assets/a.png": b"x"},
                   3, "no_weights: holds no weights: no safetensors, PyTorch or GGUF file\n  found `assets/`, `config.json`, `tokenizer.json`"),
    "only_training": ({"training_args.bin": b"x", "optimizer.pt": b"x", "scheduler.pt": b"x", "rng_state.pth": b"x"}, 3, "holds no weights"),
    "two_candidates": ({"a.safetensors": weights("a"), "b.safetensors": weights("b")},
                       2, "holds several weights files and no index that joins them\n  `a.safetensors` (65 B)\n  `b.safetensors` (65 B)\n  hint: name one of the files"),
    "two_variants": ({"x.fp16.safetensors": weights("a"), "x.ema.safetensors": weights("b")}, 2, "holds several weights files"),
    "shard_missing": ({SHARD_1: weights("a"), INDEX: index({"a": SHARD_1, "b": SHARD_2})},
                      3, f"{INDEX}: names 2 shards, of which `{SHARD_2}` cannot be found"),
    "shard_missing_no_index": ({"model-00001-of-00003.safetensors": weights("a"), "model-00003-of-00003.safetensors": weights("b")},
                               3, "holds 2 of 3 shards like `model-00001-of-00003.safetensors`: number 2 is not there"),
    "shard_damaged": ({SHARD_1: weights("a"), SHARD_2: weights("b", "c")[:-1], INDEX: index({"a": SHARD_1, "b": SHARD_2, "c": SHARD_2})},
                      1, f"{SHARD_2}: tensor `c` ends at byte"),
    "first_error_wins": ({SHARD_1: weights("a") + b"x", SHARD_2: b"", INDEX: index({"a": SHARD_1, "b": SHARD_2})},
                         1, f"{SHARD_1}: has 1 byte after its last tensor"),
    "tensor_in_two_shards": ({SHARD_1: weights("a"), SHARD_2: weights("b", "a"), INDEX: index({"a": SHARD_1, "b": SHARD_2})},
                             1, f"tensor `a` is there twice: in `{SHARD_1}` and in `{SHARD_2}`"),
    "index_parent": ({INDEX: index({"a": "../../safetensors/order.safetensors"})}, 1, "the file name `../../safetensors/order.safetensors` leads outside the model"),
    "index_absolute": ({INDEX: index({"a": "/etc/passwd"})}, 1, "the file name `/etc/passwd` leads outside the model"),
    "index_backslash": ({INDEX: index({"a": "..\\x"})}, 1, "the file name `..\\x` leads outside the model"),
    "index_drive": ({INDEX: index({"a": "C:x"})}, 1, "leads outside the model"),
    "index_nul": ({INDEX: index({"a": "x\0y"})}, 1, "the file name `x\\u{0}y` leads outside the model"),
    "index_empty_name": ({INDEX: index({"a": ""})}, 1, "leads outside the model"),
    "index_names_directory": ({"sub/x": b"", INDEX: index({"a": "sub"})}, 1, "sub: is a directory"),
    "index_absent_in_folder": ({INDEX: index({"a": "sub/x.safetensors"})}, 3, "sub/x.safetensors: cannot be opened"),
    "index_no_map": ({INDEX: b'{"metadata": {}}'}, 1, "is not an index of shards: it has no `weight_map`"),
    "index_empty_map": ({INDEX: index({})}, 1, f"{INDEX}: names no file"),
    "index_twice": ({SHARD_1: weights("a"), INDEX: b'{"weight_map":{"a":"%s","a":"%s"}}' % (SHARD_1.encode(), SHARD_2.encode())},
                    1, f"{INDEX}: tensor `a` is in the index twice: in `{SHARD_1}` and in `{SHARD_2}`"),
    "index_two_maps": ({INDEX: b'{"weight_map":{},"weight_map":{}}'}, 1, "has `weight_map` twice"),
    "index_not_text": ({INDEX: index({"a": 3})}, 1, "is not an index of shards: invalid type: integer `3`"),
    "index_not_json": ({INDEX: b"<html>"}, 1, "is not an index of shards: expected value"),
    "index_deep": ({INDEX: b'{"metadata":' + b"[" * 5000}, 1, "is not an index of shards: EOF while parsing a list"),
    "index_array": ({INDEX: b"[]"}, 1, "is not an index of shards: invalid type: sequence, expected an object"),
    "lfs_shard": ({SHARD_1: weights("a"), SHARD_2: LFS, INDEX: index({"a": SHARD_1, "b": SHARD_2})}, 1, f"{SHARD_2}: is a Git LFS pointer"),
    "quants": ({"m-Q4_K_M.gguf": b"GGUF", "m-Q8_0.gguf": b"GGUF" * 300, "mmproj-F16.gguf": b"x"},
               2, "holds several GGUF models, of which one is to be chosen\n  Q4_K_M             4 B   m-Q4_K_M.gguf\n  Q8_0            1.2 kB   m-Q8_0.gguf\n  hint: add the quantisation to the name (`NAME:Q4_K_M`), or name the file"),
    "gguf_part_missing": ({"m-00001-of-00003.gguf": b"GGUF", "m-00003-of-00003.gguf": b"GGUF"},
                          3, "holds 2 of the 3 files of a split GGUF: `m-00002-of-00003.gguf` is not there"),
    "pipeline_missing": ({"model_index.json": b'{"_class_name":"X","unet":["diffusers","U"],"vae":["diffusers","V"]}', "unet/diffusion_pytorch_model.safetensors": weights("a")},
                         3, "model_index.json: names the component `vae`, whose folder is not here"),
    "pipeline_escapes": ({"model_index.json": b'{"../x":["diffusers","U"]}', "unet/x": b""}, 1, "model_index.json: the file name `../x` leads outside"),
    "pipeline_empty": ({"model_index.json": b'{"scheduler":["diffusers","S"]}', "scheduler/scheduler_config.json": b"{}"}, 3, "model_index.json: names no component that holds weights"),
    "pipeline_of_nothing": ({"model_index.json": b'{"_class_name":"X"}'}, 3, "pipeline_of_nothing: holds no weights"),
    "pipeline_damaged": ({"model_index.json": b"{"}, 1, "model_index.json: is not valid JSON"),
    "pipeline_choice": ({"model_index.json": b'{"unet":["diffusers","U"]}', "unet/a.safetensors": weights("a"), "unet/b.safetensors": weights("b")},
                        2, "unet: holds several weights files"),
    "numbers_of_two_widths": ({"m-1-of-00002.safetensors": weights("a"), "m-00001-of-00002.safetensors": weights("b"), "m-00002-of-00002.safetensors": weights("c")},
                              2, "holds several weights files"),
    # Valid, with something to say: the expectation is a note.
    "stray_tensors": ({SHARD_1: weights("a", "stray"), SHARD_2: weights("b"), INDEX: index({"a": SHARD_2, "b": SHARD_2, "alias": SHARD_1}, total_size=1.5)},
                      0, f"{INDEX}: 1 tensor is in the index but in no shard: `alias`\n{INDEX}: 1 tensor is in another shard than the index says: `a`\n{INDEX}: 1 tensor is in a shard but not in the index: `stray`"),
    "stale_index": ({"model.safetensors": weights("a"), INDEX: index({"a": SHARD_1, "b": SHARD_2})},
                    0, f"{INDEX}: names no shard that is here; `model.safetensors` is read instead"),
    "adapter": ({"adapter_config.json": b'{"base_model_name_or_path":"org/base\\u001b[2J"}', "adapter_model.safetensors": weights("lora_A")},
                0, "adapter_model.safetensors: is an adapter for `org/base\\u{1b}[2J`, not a whole model"),
}


def main():
    for room in ("detect", "open"):
        shutil.rmtree(ROOT / room, ignore_errors=True)
        (ROOT / room).mkdir(parents=True)
    for name, (content, code, message) in FILES.items():
        (ROOT / "detect" / name).write_bytes(content)
        (ROOT / "detect" / f"{name}.txt").write_text(f"{code}\n{message}\n")
    for name, (files, code, message) in DIRECTORIES.items():
        for path, content in files.items():
            path = ROOT / "open" / name / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (ROOT / "open" / f"{name}.txt").write_text(f"{code}\n{message}\n")


main()
