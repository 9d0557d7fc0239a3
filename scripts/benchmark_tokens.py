"""Measure what stored tokens cost and save: compressing them, learning from one arriving sample, a store of 100,000.

    python scripts/benchmark_tokens.py
    python scripts/benchmark_tokens.py --quick

Three tables:
  compression  64 images of 50 tokens of size 768: scikit-learn's PCA(5) on one after the other, as AnytimeCL's code
               does, against utils/compression.py, which also quantises, on one after the other and on all together
  learning     from one arriving sample with 31 from memory, a network of the size of CLIP ViT-B/32 with random weights:
               the new image goes through the frozen trunk and 31 tokens are decompressed, against all 32 images through
               the trunk; then one step of the last block on the 32, the same for both
  store        adding one sample, and drawing and reading 31, at a hundredth of the samples and at all of them
Times are the fastest of --repeats on --device. They depend on the number of threads: compare with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# Before torch is imported: see main.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.args import positive
from utils.compression import Compression, class_token_weights, compress, decompress
from utils.errors import RunError, run_script
from utils.tables import text_table
from utils.token_sampling import SAMPLERS, sample
from utils.token_store import TokenStore

TOKENS, DIM = 50, 768
BATCH, LABELS = 32, 100


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--images", type=positive, default=64, help="images to compress")
    add("--stored", type=positive, default=100_000, help="samples of the store")
    add("--repeats", type=positive, default=5, help="how often each thing is timed")
    add("--device", default="cpu", help="cpu, cuda")
    add("--quick", action="store_true", help="small sizes, to see that it runs; its figures mean nothing")
    args = parser.parse_args(argv)
    if args.quick:
        args.images, args.stored, args.repeats = 4, 2000, 1
    device = torch.device(args.device)
    given = sys.argv[1:] if argv is None else argv
    print(
        f"{shlex.join(['python', 'scripts/benchmark_tokens.py', *given])}\n{device}, {torch.get_num_threads()} threads"
    )
    try:
        measure_compression(args.images, args.repeats, device)
        measure_learning(args.quick, args.repeats, device)
        measure_store(args.stored, args.repeats, device)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def measure_compression(n: int, repeats: int, device: torch.device) -> dict[str, float]:
    """Print, and return, milliseconds an image of every way of compressing n images."""
    from sklearn.decomposition import PCA

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(n, TOKENS, DIM, generator=generator)
    weights = class_token_weights(torch.rand(n, TOKENS, generator=generator).softmax(1))
    arrays, settings = tokens.numpy(), Compression(TOKENS, DIM)
    tokens, weights = tokens.to(device), weights.to(device)
    ways: dict[str, Callable[[], Any]] = {
        "scikit-learn, one by one": lambda: [PCA(5).fit_transform(x) for x in arrays],
        "ours, one by one": lambda: [compress(tokens[i : i + 1], weights[i : i + 1], settings) for i in range(n)],
        "ours, together": lambda: compress(tokens, weights, settings),
    }
    taken = {name: fastest(way, repeats, device) * 1e3 / n for name, way in ways.items()}
    slowest = taken["scikit-learn, one by one"]
    rows = [[name, f"{ms:.3f}", f"{slowest / ms:.1f}"] for name, ms in taken.items()]
    print(f"\n{n} images of {TOKENS} x {DIM}, 5 components, {settings.n_bytes} bytes each")
    print(text_table(["compression", "ms/image", "x scikit-learn"], rows))
    return taken


def measure_learning(is_small: bool, repeats: int, device: torch.device) -> dict[str, float]:
    """Print, and return, milliseconds of the parts of learning from one arriving sample."""
    from backbone.clip import ClipBackbone
    from backbone.utils.clip_towers import build, named_config, tiny_config

    torch.manual_seed(0)
    visual = build(tiny_config(32, 8, 32, 2) if is_small else named_config("ViT-B-32-quickgelu")).visual
    net = ClipBackbone(visual, nn.Identity(), num_classes=2, trained_blocks=1, logit_scale=100.0).to(device)
    side, tail = (32 if is_small else 224), net.make_tail().to(device)
    images = torch.randn(BATCH, 3, side, side, device=device)
    settings = Compression(net.n_tokens, net.token_dim)
    tokens, attention = net.tokens_and_attention(images)
    codes = compress(tokens, class_token_weights(attention), settings)
    labels = torch.arange(BATCH, device=device) % LABELS
    texts = F.normalize(torch.randn(LABELS, net.feature_dim, device=device), dim=1)
    optimiser = torch.optim.AdamW([p for p in tail.parameters() if p.requires_grad], lr=1e-5, weight_decay=0.05)

    def step(inputs: Tensor) -> None:
        logits = net.logit_scale * F.normalize(tail(inputs), dim=-1) @ texts.T
        optimiser.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimiser.step()

    def encode_and_store() -> None:
        new, of_new = net.tokens_and_attention(images[:1])
        compress(new, class_token_weights(of_new), settings)

    parts = {
        "encode and compress the new image": fastest(encode_and_store, repeats, device),
        f"decompress {BATCH - 1} samples": fastest(lambda: decompress(codes[1:], settings), repeats, device),
        f"encode {BATCH} images": fastest(lambda: net.tokens(images), repeats, device),
        f"step of the last block on {BATCH}": fastest(lambda: step(tokens), repeats, device),
    }
    parts = {name: 1e3 * seconds for name, seconds in parts.items()}
    new, stored, encoded, stepped = parts.values()
    parts |= {"tokens stored": new + stored + stepped, "images re-encoded": encoded + stepped}
    ratio = parts["images re-encoded"] / parts["tokens stored"]
    size = f"{net.n_tokens} x {net.token_dim} tokens, {sum(p.numel() for p in net.trunk.parameters()):,} in the trunk"
    print(f"\none arriving sample and {BATCH - 1} from memory; {size}")
    print(text_table(["learning", "ms/sample"], [[name, f"{ms:.2f}"] for name, ms in parts.items()]))
    print(f"with stored tokens {ratio:.1f} times as fast")
    return parts


def measure_store(n: int, repeats: int, device: torch.device, chunk: int = 1000) -> dict[int, dict[str, float]]:
    """Print, and return, milliseconds of adding and drawing by number of stored samples.

    Samples have few tokens, so that filling the store takes seconds, and codes about as long as those of CLIP ViT-B/32.
    """
    settings = Compression(8, DIM)
    store = TokenStore(settings, device)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(chunk, 8, DIM, generator=generator).to(device)
    attention = torch.rand(chunk, 8, generator=generator).softmax(1).to(device)
    labels = torch.randint(LABELS, (chunk,), generator=generator)
    taken: dict[int, dict[str, float]] = {}
    for target in (max(n // 100, 1), n):
        while len(store) < target:
            m = min(chunk, target - len(store))
            store.add(tokens[:m], attention[:m], labels[:m])
        times = {"add one": fastest(lambda: store.add(tokens[:1], attention[:1], labels[:1]), 10 * repeats, device)}
        slots = sample(store, BATCH - 1, "uniform")
        times |= {f"read {BATCH - 1}": fastest(partial(store.get, slots), 10 * repeats, device)}
        for name in SAMPLERS:
            draw = partial(sample, store, BATCH - 1, name)
            times[f"draw {BATCH - 1}, {name}"] = fastest(draw, 10 * repeats, device)
        taken[target] = {name: 1e3 * seconds for name, seconds in times.items()}
    small, large = taken.values()
    rows = [[name, f"{small[name]:.3f}", f"{large[name]:.3f}"] for name in large]
    per_sample = store.n_bytes / len(store)
    print(f"\n{len(store):,} samples, {settings.n_bytes} bytes of codes each; {per_sample:.0f} bytes each as allocated")
    print(text_table(["store [ms]", *(f"at {size:,}" for size in taken)], rows))
    return taken


def fastest(run: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest of some runs, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


if __name__ == "__main__":
    sys.exit(run_script(main))
