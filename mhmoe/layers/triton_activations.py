# pyright: basic, reportMissingImports=false, reportUntypedFunctionDecorator=false, reportMissingParameterType=false
"""The activations of activations.py and their derivatives, of a tile in float32, for the kernels in Triton."""

import triton
import triton.language as tl


@triton.jit
def _gelu(a):
    return 0.5 * a * (1 + tl.erf(a * 0.7071067811865476))


@triton.jit
def _gelu_slope(a):
    return 0.5 * (1 + tl.erf(a * 0.7071067811865476)) + a * 0.3989422804014327 * tl.exp(-0.5 * a * a)


@triton.jit
def _tanh_gate(a):
    """(1 + tanh(z)) / 2 = sigmoid(2 z)."""
    return tl.sigmoid(1.5957691216057308 * (a + 0.044715 * a * a * a))


@triton.jit
def value_of(a, b, KIND: tl.constexpr):
    """The activations of activations.py; those that are not gated read `a` alone."""
    if KIND == "gelu":
        value = _gelu(a)
    elif KIND == "gelu_tanh":
        value = a * _tanh_gate(a)
    elif KIND == "relu":
        value = tl.maximum(a, 0.0)
    elif KIND == "relu2":
        value = tl.maximum(a, 0.0) * tl.maximum(a, 0.0)
    elif KIND == "swiglu":
        value = a * tl.sigmoid(a) * b
    elif KIND == "geglu":
        value = _gelu(a) * b
    elif KIND == "clamped_swiglu":
        low = tl.minimum(a, 7.0)
        value = (tl.minimum(tl.maximum(b, -7.0), 7.0) + 1) * low * tl.sigmoid(1.702 * low)
    else:
        tl.static_assert(KIND == "none")
        value = a
    return value


@triton.jit
def slopes_of(a, b, KIND: tl.constexpr):
    """The derivatives of `value_of` by a and by b."""
    of_a, of_b = a, b
    if KIND == "gelu":
        of_a = _gelu_slope(a)
    elif KIND == "gelu_tanh":
        s = _tanh_gate(a)
        of_a = s + a * s * (1 - s) * 1.5957691216057308 * (1 + 0.134145 * a * a)
    elif KIND == "relu":
        of_a = tl.where(a > 0, 1.0, 0.0)
    elif KIND == "relu2":
        of_a = 2 * tl.maximum(a, 0.0)
    elif KIND == "swiglu":
        s = tl.sigmoid(a)
        of_a, of_b = s * (1 + a * (1 - s)) * b, a * s
    elif KIND == "geglu":
        of_a, of_b = _gelu_slope(a) * b, _gelu(a)
    else:
        tl.static_assert(KIND == "clamped_swiglu")
        low, held = tl.minimum(a, 7.0), tl.minimum(tl.maximum(b, -7.0), 7.0)
        s = tl.sigmoid(1.702 * low)
        of_a = tl.where(a <= 7, (held + 1) * s * (1 + 1.702 * low * (1 - s)), 0.0)
        of_b = tl.where((b >= -7) & (b <= 7), low * s, 0.0)
    return of_a, of_b
