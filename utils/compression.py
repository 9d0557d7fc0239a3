"""Tokens of an image in a few thousand bytes: principal components of the image's own tokens, quantised.

The tokens X (L, D) of one image, weighted by w with sum 1, become mean, components and coefficients:

    mu = sum_i w_i x_i;  V = top k right singular vectors of diag(sqrt w) (X - mu);  C = (X - mu) V';  X ~ C V + mu

which minimises sum_i w_i |x_i - x~_i|^2 over all C, V of k components. A sample is one row of bytes, so that a memory
of samples is one matrix. The authors' code multiplies the tokens by their weights before an unweighted analysis and
restores the products; here what comes back are the tokens.

Source: Z. Zhu, Y. Gong, D. Hoiem, Anytime continual learning for open vocabulary classification, ECCV 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import DataError

CODE_TYPES = {8: torch.uint8, 16: torch.uint16}
BITS = (*CODE_TYPES, 32)
MODES = ("image", "shared", "none")
RANGES = ("token", "component")
# Of the mean square of the tokens; a variance below is rounding of float32, not a direction.
NULL = 1e-12
MOST_IN_FLOAT32 = 16


@dataclass(frozen=True)
class Compression:
    """How tokens are stored. Two equal settings read each other's codes.

    Args:
        n_tokens: L.
        token_dim: D.
        components: k; None or 0 stores the tokens as they are, as mode "none" does.
        bits: of every code, 8, 16 or 32; 32 is float32 as it is, without ranges.
        weighting: whether components serve the tokens by weight or all alike.
        ranges: what has a smallest and a largest coefficient of its own, every "token" (as published) or every
            "component" (fewer bytes: there are fewer of them).
        mode: "image", components of every image; "shared", one set of components for all images, fitted once to the
            first of them, of which every image stores coefficients; "none", the tokens in float32.
        n_fit: shared: images that the components are fitted to.

    Raises:
        ValueError: settings that do not exist, or more components than there can be.
    """

    n_tokens: int
    token_dim: int
    components: int | None = 5
    bits: int = 8
    weighting: bool = True
    ranges: str = "token"
    mode: str = "image"
    n_fit: int = 100

    def __post_init__(self) -> None:
        for name, known in (("bits", BITS), ("ranges", RANGES), ("mode", MODES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, not {getattr(self, name)!r}")
        if self.mode == "none" or not self.components:
            # One form for settings that are the same.
            plain = {"mode": "none", "components": 0, "bits": 32, "weighting": False, "ranges": "token", "n_fit": 0}
            for name, value in plain.items():
                object.__setattr__(self, name, value)
            return
        most = self.token_dim if self.mode == "shared" else min(self.n_tokens, self.token_dim)
        if not 0 < self.components <= most:
            raise ValueError(
                f"{self.components} components: {self.n_tokens} tokens of size {self.token_dim} have 1 to {most}; "
                "0 stores them as they are"
            )
        if self.mode == "shared" and self.n_fit < 1:
            raise ValueError(f"shared components need at least 1 image to be fitted to, not {self.n_fit}")
        if self.mode != "shared":
            object.__setattr__(self, "n_fit", 0)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of the matrices that a sample stores; each row has a range of its own."""
        k, tokens, dim = self.components or 0, self.n_tokens, self.token_dim
        if self.mode == "none":
            return [(tokens, dim)]
        coefficients = (tokens, k) if self.ranges == "token" else (k, tokens)
        return [coefficients] if self.mode == "shared" else [(k, dim), coefficients, (1, dim)]

    @property
    def n_bytes(self) -> int:
        """Bytes of a sample."""
        codes = sum(rows * columns for rows, columns in self.shapes) * self.bits // 8
        return codes + (8 * sum(rows for rows, _ in self.shapes) if self.bits < 32 else 0)


class Basis(NamedTuple):
    """What all images share in mode "shared": mean (D,) and components (k, D)."""

    mean: Tensor
    components: Tensor


def class_token_weights(attention: Tensor) -> Tensor:
    """Weights of tokens: 1 for the class token, for every patch the class token's attention to it; divided by the sum.

    The class token's own entry of the attention, at most 1, gives way to 1: only this token's output is read, so that
    its query, value and residual are needed exactly, while a patch matters as far as it is looked at. The larger of
    that entry and 1, the other reading of the method, is the same number.

    Args:
        attention: (B, L) of the class token, which comes first, to all tokens; rows sum to 1.
    """
    weights = attention.clone()
    weights[:, 0] = 1
    return weights / weights.sum(1, keepdim=True)


def compress(tokens: Tensor, weights: Tensor | None, settings: Compression, basis: Basis | None = None) -> Tensor:
    """Codes of a batch of images.

    Args:
        tokens: (B, L, D).
        weights: (B, L), not negative, of any positive sum; None will do where `settings.weighting` is off.
        settings: how.
        basis: what `fit_basis` returned, for mode "shared".

    Returns:
        (B, settings.n_bytes) uint8, on the device of the tokens.

    Raises:
        ValueError: other shapes than the settings say, no weights or no basis where they are needed.
        DataError: tokens or weights that are not finite, weights that are negative or sum to 0.
    """
    weights = check_tokens(tokens, weights, settings)
    x = tokens.detach().float()
    if settings.mode == "none":
        parts = [x]
    elif settings.mode == "shared":
        if basis is None:
            raise ValueError("mode shared needs the basis that fit_basis makes of the first images")
        parts = [(x - basis.mean) @ basis.components.T]
    else:
        k = settings.components or 0
        # What float32 loses is less than what 8-bit codes do, and the first components are not concerned.
        dtype = torch.float32 if settings.bits == 8 and k <= MOST_IN_FLOAT32 else torch.float64
        components, coefficients, mean = principal_components(x, weights, k, dtype)
        parts = [components, coefficients, mean.unsqueeze(1)]
    if settings.ranges == "component":
        position = 0 if settings.mode == "shared" else 1
        parts[position] = parts[position].mT
    return torch.cat([piece for part in parts for piece in _encoded(part, settings.bits)], dim=1)


def check_tokens(tokens: Tensor, weights: Tensor | None, settings: Compression) -> Tensor | None:
    """The weights as float32 where they count, None where weighting is off.

    Args, Raises: as of `compress`, shapes and finiteness.
    """
    expected = (settings.n_tokens, settings.token_dim)
    if tokens.ndim != 3 or tokens.shape[1:] != expected:
        raise ValueError(f"tokens of shape (B, {expected[0]}, {expected[1]}) are needed, not {tuple(tokens.shape)}")
    # One number tells: infinities and what is not a number survive a sum.
    if not tokens.sum().isfinite():
        raise DataError("tokens that are not finite cannot be stored; look for samples that are not finite")
    if not settings.weighting:
        return None
    if weights is None or weights.shape != tokens.shape[:2]:
        given = "none" if weights is None else tuple(weights.shape)
        raise ValueError(f"weights of shape {tuple(tokens.shape[:2])} are needed, not {given}; or weighting=False")
    usable = weights.isfinite().all() & (weights >= 0).all() & (weights.sum(1) > 0).all()
    if not usable:
        raise DataError("weights of tokens must be finite, not negative, and have a positive sum")
    return weights.detach().float()


def decompress(codes: Tensor, settings: Compression, basis: Basis | None = None) -> Tensor:
    """Tokens (B, L, D), float32, of codes that `compress` made with the same settings and basis.

    Raises:
        ValueError: rows of another length or type, or no basis where one is needed.
    """
    if codes.ndim != 2 or codes.shape[1] != settings.n_bytes or codes.dtype != torch.uint8:
        raise ValueError(
            f"these settings make rows of {settings.n_bytes} bytes (uint8), not {tuple(codes.shape)} {codes.dtype}"
        )
    parts, start = [], 0
    for rows, columns in settings.shapes:
        part, start = _decoded(codes, start, rows, columns, settings.bits)
        parts.append(part)
    if settings.mode == "none":
        return parts[0]
    if settings.mode == "shared":
        if basis is None:
            raise ValueError("mode shared needs the basis that the codes were made with")
        coefficients = parts[0].mT if settings.ranges == "component" else parts[0]
        return coefficients @ basis.components + basis.mean
    components, coefficients, mean = parts
    coefficients = coefficients.mT if settings.ranges == "component" else coefficients
    return torch.baddbmm(mean, coefficients, components)


def principal_components(
    x: Tensor, weights: Tensor | None, k: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted principal components of every matrix of a batch, by the eigenvectors of its Gram matrix (L, L).

    Where a matrix has fewer than k directions the rows that are left over are 0. The largest entry of a component, by
    absolute value, is positive.

    Args:
        x: (B, L, D) float32.
        weights: (B, L), None for equal ones.
        k: at most L.
        dtype: of the Gram matrix. Its entries are squares, so that float32 loses directions below about a 400th of the
            strongest, by standard deviation.

    Returns:
        (components (B, k, D) with orthonormal rows, coefficients (B, L, k), mean (B, D)).
    """
    if weights is None:
        weights = torch.ones_like(x[..., 0])
    share = (weights / weights.sum(1, keepdim=True)).unsqueeze(2)
    mean = share.mT @ x
    centred = x - mean
    wide = (share.sqrt() * centred).to(dtype)
    values, vectors = _eigh(wide @ wide.mT)
    mean_square = values.sum(1, keepdim=True) + mean.square().sum(2)
    rounding = x.shape[1] * torch.finfo(dtype).eps * values[:, -1:] + NULL * mean_square
    values, vectors = values[:, -k:].flip(1), vectors[..., -k:].flip(2)
    components = F.normalize(vectors.mT @ wide, dim=2) * (values > rounding).unsqueeze(2)
    components = components.to(x.dtype)
    components = components * _sign_of_largest(components)
    return components, centred @ components.mT, mean.squeeze(1)


def fit_basis(tokens: Tensor, weights: Tensor | None, settings: Compression) -> Basis:
    """Weighted principal components of the tokens of many images together, one set for all of them.

    Args:
        tokens, weights: as for `compress`.

    Raises:
        ValueError, DataError: as `compress` does.
    """
    weights = check_tokens(tokens, weights, settings)
    x = tokens.detach().double()
    share = torch.ones_like(x[..., 0]) if weights is None else weights / weights.sum(1, keepdim=True)
    share = (share / share.sum()).flatten().unsqueeze(1)
    x = x.flatten(0, 1)
    mean = (share * x).sum(0)
    scaled = share.sqrt() * (x - mean)
    components = torch.linalg.eigh(scaled.T @ scaled)[1][:, -(settings.components or 0) :].flip(1).T
    components = components * _sign_of_largest(components)
    return Basis(mean.float(), components.float().contiguous())


def quantise(x: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (..., n) by rounding between the smallest and the largest entry of each row, and these two (..., 1).

    With 2**bits - 1 steps from one to the other, `dequantise` is at most half a step off.

    Args:
        x: (..., n) float32.
        bits: 8 or 16.
    """
    low, high = x.aminmax(dim=-1, keepdim=True)
    steps = 2**bits - 1
    codes = ((x - low) / (high - low).clamp(min=1e-12) * steps).round_()
    return codes.to(CODE_TYPES[bits]), low, high


def dequantise(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """What `quantise` was given, up to half a step; a constant row exactly."""
    return torch.addcmul(low, codes.float() / torch.iinfo(codes.dtype).max, high - low)


def _eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` by one thread on a CPU: on matrices this small more threads wait longer than they work, a
    hundred times as long where another process has one of the cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.linalg.eigh(matrices)
    finally:
        torch.set_num_threads(n_threads)


def _sign_of_largest(rows: Tensor) -> Tensor:
    """(..., n, 1) sign of the entry of each row that is largest by absolute value."""
    return rows.gather(-1, rows.abs().argmax(-1, keepdim=True)).sign()


def _encoded(part: Tensor, bits: int) -> list[Tensor]:
    """Bytes (B, ...) of a batch of matrices: the rows' ranges, then their codes."""
    if bits == 32:
        return [_bytes(part)]
    codes, low, high = quantise(part, bits)
    return [_bytes(torch.cat([low, high], dim=-1)), _bytes(codes)]


def _decoded(row: Tensor, start: int, rows: int, columns: int, bits: int) -> tuple[Tensor, int]:
    """The matrices (B, rows, columns) that begin at a byte, and where the next ones do."""
    if bits == 32:
        return _values(row, start, torch.float32, rows, columns)
    ranges, start = _values(row, start, torch.float32, rows, 2)
    codes, start = _values(row, start, CODE_TYPES[bits], rows, columns)
    return dequantise(codes, ranges[..., :1], ranges[..., 1:]), start


def _bytes(values: Tensor) -> Tensor:
    return values.flatten(1).contiguous().view(torch.uint8)


def _values(row: Tensor, start: int, dtype: torch.dtype, rows: int, columns: int) -> tuple[Tensor, int]:
    end = start + rows * columns * dtype.itemsize
    # Copied, as other types can be read from bytes at multiples of their size only.
    piece = row[:, start:end].clone(memory_format=torch.contiguous_format)
    return piece.view(dtype).unflatten(1, (rows, columns)), end
