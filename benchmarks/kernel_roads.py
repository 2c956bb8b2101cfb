"""The roads that `benchmarks/kernels.py` measures: inputs, our variants, and the peers, each as a function of nothing.

    sdpa X              torch.nn.functional.scaled_dot_product_attention with backend X; no statistics
    flex                FlexAttention, compiled, with a causal block mask; no statistics
    eager scan          the dense map in float32, as an eager attention builds it, and the scan set from it
    interp              attend without probes
    interp scan         attend with the scan set: Entropy, Peak, LabelMatch (duplicate token, strict), LabelMatch (induction),
                        OffsetMass((0, 1)), KeyMass of four columns, Distance
    interp received     attend with Received alone
    interp NAME         attend with one probe of the scan set, or TopK, DistanceHistogram, Pooled (--each)
    plain, plain scan,  the same without compiled sweeps: the tiled backend in plain torch
    plain received

Queries, keys and values are standard normal, so scores have variance 1. Labels are a Zipf draw with exponent 1 over 5,000
labels, which match one another about as often as the tokens of a text do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

LABELS, EXPONENT = 5000, 1.0
FLEX_BLOCK = 128
SINGLE = ("entropy", "peak", "duplicate", "induction", "offset_mass", "key_mass", "distance")
OTHERS = ("top_k", "distance_histogram", "pooled")

Work = Callable[[], dict[str, Tensor]]
"""Does what a road does once; gives its output and statistics by name."""


class SkippedError(Exception):
    """This road cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """One layer of attention: [1, heads, tokens, width] queries on kv_heads, causal."""

    device: str
    dtype: torch.dtype
    tokens: int
    heads: int
    kv_heads: int
    width: int

    @property
    def map_bytes(self) -> int:
        """The dense map in float32."""
        return 4 * self.heads * self.tokens**2

    @property
    def flops(self) -> int:
        """Of the two products, over the cells that a causal mask shows."""
        return 2 * 2 * self.heads * self.width * self.tokens * (self.tokens + 1) // 2

    @cached_property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator(self.device).manual_seed(0)
        shapes = [(1, h, self.tokens, self.width) for h in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = (torch.randn(s, generator=generator, device=self.device, dtype=self.dtype) for s in shapes)
        return q, k, v

    @cached_property
    def labels(self) -> Tensor:
        """[tokens] on the CPU, so that a seed means the same everywhere."""
        weights = torch.arange(1, LABELS + 1).double() ** -EXPONENT
        return torch.multinomial(weights, self.tokens, replacement=True, generator=torch.Generator().manual_seed(0))

    @cached_property
    def key_weights(self) -> Tensor:
        """[tokens, 4]: the first key, the keys of the commonest label, the relative position, and random numbers."""
        position = torch.arange(self.tokens)
        columns = (position == 0, self.labels == 0, position / self.tokens)
        noise = torch.rand(self.tokens, generator=torch.Generator().manual_seed(1))
        return torch.stack([*(c.float() for c in columns), noise], dim=-1).to(self.device)


def prepare(road: str, setting: Setting) -> Work:
    """The work of a road.

    Raises:
        SkippedError: it cannot run on this machine, or not at this length.
    """
    kind, _, rest = road.partition(" ")
    if kind == "sdpa":
        return _sdpa(rest, setting)
    if kind == "flex":
        return _flex(setting)
    if kind == "eager":
        return _eager(setting)
    if kind == "plain":
        # What find_spec sees of a package that is not installed.
        sys.modules["numba"] = None  # pyright: ignore[reportArgumentType]
    return _attend(probes_of(rest, setting), setting.device == "cuda" and kind == "interp", setting)


def probes_of(name: str, setting: Setting) -> list:
    """The probes of ``interp NAME``."""
    import interp_kernels as ik

    labels = setting.labels.to(setting.device)
    before = torch.cat([labels.new_full((1,), -1), labels[:-1]])
    known = {
        "entropy": ik.Entropy(),
        "peak": ik.Peak(),
        "duplicate": ik.LabelMatch(labels, labels, strict=True, name="duplicate"),
        "induction": ik.LabelMatch(labels, before, name="induction"),
        "offset_mass": ik.OffsetMass((0, 1)),
        "key_mass": ik.KeyMass(setting.key_weights),
        "distance": ik.Distance(),
        "received": ik.Received(),
        "top_k": ik.TopK(8),
        "distance_histogram": ik.DistanceHistogram((0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, float("inf"))),
        "pooled": ik.Pooled(64),
    }
    if not name:
        return []
    return [known[each] for each in SINGLE] if name == "scan" else [known[name]]


def _attend(probes: list, on_triton: bool, setting: Setting) -> Work:
    import interp_kernels as ik

    q, k, v = setting.qkv
    backend = "triton" if on_triton else "cpu"

    def work() -> dict[str, Tensor]:
        attended = ik.attend(q, k, v, probes=probes, backend=backend)
        return {"output": attended.output, "lse": attended.lse, **attended.stats}

    return work


def _sdpa(backend: str, setting: Setting) -> Work:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    named = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
    if backend == "math":
        # Scores, a copy of them with the mask, and the map, of which some stand in the inputs' type.
        _needs_room(4 * setting.map_bytes, setting)
    q, k, v = setting.qkv
    if backend == "efficient" and setting.heads != setting.kv_heads:
        # It knows no grouped heads; the copies are not counted.
        k, v = (x.repeat_interleave(setting.heads // setting.kv_heads, dim=1) for x in (k, v))
    grouped = k.shape[1] != q.shape[1]

    def work() -> dict[str, Tensor]:
        with sdpa_kernel(named[backend]):
            return {"output": scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)}

    return work


def _flex(setting: Setting) -> Work:
    from torch._inductor.exc import InductorError
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    def causal(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

    n = -(-setting.tokens // FLEX_BLOCK)
    index = torch.arange(n, dtype=torch.int32, device=setting.device)
    one, every = torch.ones(1, 1, n, dtype=torch.int32, device=setting.device), index.expand(1, 1, n, n).contiguous()
    diagonal = index.view(1, 1, n, 1).expand(1, 1, n, n).contiguous()
    # Built from its blocks: torch's own helper makes the T x T mask first.
    mask = BlockMask.from_kv_blocks(
        one, diagonal, index.view(1, 1, n), every, FLEX_BLOCK, causal, (setting.tokens, setting.tokens)
    )
    q, k, v = setting.qkv
    compiled = torch.compile(flex_attention, dynamic=False)

    def work() -> dict[str, Tensor]:
        output = compiled(q, k, v, block_mask=mask, enable_gqa=setting.heads != setting.kv_heads)
        return {"output": output}

    try:
        work()
    except InductorError as error:
        raise SkippedError(f"it does not compile here: {str(error).strip().splitlines()[0]}") from error
    return work


def _eager(setting: Setting) -> Work:
    # Scores and the map in float32, and the product of the map with a match or a distance.
    _needs_room(4 * setting.map_bytes, setting)
    q, k, v = setting.qkv
    group, t, scale = setting.heads // setting.kv_heads, setting.tokens, setting.width**-0.5
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v)) if group > 1 else (k, v)
    i = torch.arange(t, device=setting.device)
    labels, weights = setting.labels.to(setting.device), setting.key_weights
    before = torch.cat([labels.new_full((1,), -1), labels[:-1]])

    def work() -> dict[str, Tensor]:
        scores = (q @ k.transpose(-1, -2)).mul_(scale).masked_fill_(i > i[:, None], -torch.inf)
        p = scores.softmax(dim=-1, dtype=torch.float32)
        del scores
        peak, index = p.max(dim=-1)
        own = p.diagonal(dim1=-2, dim2=-1)
        previous = torch.nn.functional.pad(p.diagonal(offset=-1, dim1=-2, dim2=-1), (1, 0))
        return {
            "output": p.to(v.dtype) @ v,
            "entropy": torch.special.entr(p).sum(dim=-1),
            "peak": peak,
            "peak_index": index,
            "duplicate": (p * ((labels[:, None] == labels) & (i < i[:, None]))).sum(dim=-1),
            "induction": (p * (labels[:, None] == before)).sum(dim=-1),
            "offset_mass": torch.stack([own, previous], dim=-1),
            "key_mass": p @ weights,
            "distance": (p * (i[:, None] - i).abs()).sum(dim=-1),
        }

    return work


def _needs_room(size: int, setting: Setting) -> None:
    if setting.device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if size > 0.9 * free:
        raise SkippedError(f"the dense map needs about {size / 1e9:.0f} GB, {free / 1e9:.0f} GB are free")
