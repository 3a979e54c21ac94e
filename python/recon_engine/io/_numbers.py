"""Numbers from text with numpy: no Python loop over lines or tokens."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

SPACE, TAB, NEWLINE, MINUS, PLUS, COMMA, DOT, SLASH, ZERO, NINE, HASH = (ord(c) for c in " \t\n-+,./09#")

# A decimal of at most 15 digits is mantissa / 10^k with both exact in float64, so one division rounds it correctly.
_MAX_PLAIN_LENGTH = 15
_ONE_SPACE = np.array([SPACE], dtype=np.uint8)
_POWERS_OF_TEN = 10.0 ** np.arange(_MAX_PLAIN_LENGTH + 1)


class TokenError(ValueError):
    """The token with index `token` is not a number of the wanted kind."""

    def __init__(self, token: int) -> None:
        super().__init__(f"token {token} is not a number")
        self.token = token


def is_space(text: np.ndarray) -> np.ndarray:
    """Whether each byte is a space, tab, newline, vertical tab, form feed or carriage return."""
    found: np.ndarray = (text - np.uint8(TAB) < 5) | (text == SPACE)
    return found


def _is_plain(text: np.ndarray) -> np.ndarray:
    """Whether each byte is whitespace or one of `0123456789+-.`, what plain decimals are made of."""
    decimal = (text - np.uint8(PLUS) <= NINE - PLUS) & (text != COMMA) & (text != SLASH)
    found: np.ndarray = decimal | is_space(text)
    return found


@dataclass(frozen=True)
class Tokens:
    """The whitespace-separated tokens of a text.

    Attributes:
        text: uint8, begins and ends with whitespace.
        starts: int64, where each token begins.
        ends: int64, one past each token's last byte.
    """

    text: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def word(self, index: int) -> str:
        """Token `index` as a string, for error messages."""
        return self.text[self.starts[index] : self.ends[index]].tobytes().decode("utf-8", "replace")


def tokenize(text: np.ndarray) -> Tokens:
    """Splits `text` (uint8) at whitespace."""
    if not len(text) or not is_space(text[[0, -1]]).all():
        text = np.concatenate([_ONE_SPACE, text, _ONE_SPACE])
    space = is_space(text)
    changes = np.flatnonzero(space[1:] != space[:-1]) + 1
    return Tokens(text, changes[0::2], changes[1::2])


def parse_floats(tokens: Tokens) -> np.ndarray:
    """Every token as float64, correctly rounded.

    The digits of plain decimals (at most 15 characters, no exponent) are read as integers with the point left out, then
    divided by the power of ten. Everything else goes through Python's `float`.

    Raises:
        TokenError: at the first token that is no number.
    """
    text, starts, ends = tokens.text, tokens.starts, tokens.ends
    odd = ends - starts > _MAX_PLAIN_LENGTH
    odd[_owner(tokens, np.flatnonzero(~_is_plain(text)))] = True
    odd[_malformed_plain(tokens)] = True  # float() decides, and refuses what is really wrong

    odd_index = np.flatnonzero(odd)
    if 4 * len(odd_index) > len(starts):
        try:
            return np.array(text.tobytes().split(), dtype=np.float64)
        except ValueError:
            pass  # the loop below finds which one
    digits = text.copy()
    for index in odd_index:
        digits[starts[index] : ends[index]] = ZERO
    dots = np.flatnonzero(digits == DOT)
    mantissa = _integers(digits[digits != DOT].tobytes())
    if len(mantissa) != len(starts):
        raise RuntimeError(f"{len(starts)} tokens gave {len(mantissa)} numbers")  # _malformed_plain excludes it
    decimals = np.zeros(len(starts), dtype=np.int64)
    owner = _owner(tokens, dots)
    decimals[owner] = ends[owner] - dots - 1
    values: np.ndarray = mantissa / _POWERS_OF_TEN[decimals]
    values[(mantissa == 0) & (digits[starts] == MINUS)] = -0.0
    for index in odd_index:
        try:
            values[index] = float(text[starts[index] : ends[index]].tobytes())
        except ValueError:
            raise TokenError(int(index)) from None
    return values


def parse_ints(text: np.ndarray) -> np.ndarray:
    """Every whitespace-separated token of `text` as int64; numbers too large for it become the largest one.

    Args:
        text: uint8, begins and ends with whitespace.

    Raises:
        TokenError: at the first token that is not an integer.
    """
    sign = np.flatnonzero((text == MINUS) | (text == PLUS))
    wrong = np.concatenate(
        [
            np.flatnonzero(~_is_plain(text) | (text == DOT)),
            sign[~is_space(text[sign - 1]) | ~_is_digit(text[sign + 1])],
        ]
    )
    if len(wrong):
        raise TokenError(int(np.searchsorted(tokenize(text).starts, wrong.min(), side="right")) - 1)
    return _integers(text.tobytes())


def ragged_arange(counts: np.ndarray) -> np.ndarray:
    """0..c-1 for each count c, one after the other."""
    ends = np.cumsum(counts)
    steps: np.ndarray = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    return steps


def fan_triangles(corners: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Polygons as triangles (first corner, corner i, corner i + 1).

    Args:
        corners: the corners of all polygons, one polygon after the other; (C,) or (C, K).
        counts: (P,) corners of each polygon, at least 3.

    Returns:
        (sum(counts - 2), 3) or (..., 3, K), in the order of the polygons.
    """
    if (counts == 3).all():
        return np.reshape(corners, (-1, 3, *corners.shape[1:]))
    first = np.repeat(np.cumsum(counts) - counts, counts - 2)
    step = ragged_arange(counts - 2)
    triangles: np.ndarray = corners[np.stack([first, first + step + 1, first + step + 2], axis=1)]
    return triangles


def _owner(tokens: Tokens, positions: np.ndarray) -> np.ndarray:
    """The token that each byte position lies in."""
    if len(positions) == len(tokens) and (positions >= tokens.starts).all() and (positions < tokens.ends).all():
        return np.arange(len(tokens))
    return np.searchsorted(tokens.starts, positions, side="right") - 1


def _malformed_plain(tokens: Tokens) -> np.ndarray:
    """Tokens made of digits, signs and points that are no decimal, such as `1-2`, `.`, `-` and `1.2.3`."""
    text = tokens.text
    sign = np.flatnonzero((text == MINUS) | (text == PLUS))
    dot = np.flatnonzero(text == DOT)
    bad_sign = sign[~is_space(text[sign - 1]) | ~(_is_digit(text[sign + 1]) | (text[sign + 1] == DOT))]
    bad_dot = dot[~(_is_digit(text[dot - 1]) | _is_digit(text[dot + 1]))]
    owner = _owner(tokens, dot)
    return np.concatenate([_owner(tokens, bad_sign), _owner(tokens, bad_dot), owner[1:][owner[1:] == owner[:-1]]])


def _is_digit(text: np.ndarray) -> np.ndarray:
    return (text >= ZERO) & (text <= NINE)


def _integers(text: bytes) -> np.ndarray:
    if not text or text.isspace():
        return np.empty(0, dtype=np.int64)
    with warnings.catch_warnings():  # numpy < 2.3 warns, and newer raises, where the text ends in anything else
        warnings.simplefilter("error", DeprecationWarning)
        return np.fromstring(text, dtype=np.int64, sep=" ")


def cast(values: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """`values.astype(dtype)` without warnings: what is too large for float32 becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values.astype(dtype))


def format_rows(template: str, rows: np.ndarray) -> str:
    """`template` filled with each row of a 2D array; one formatting call for all of them."""
    return template * len(rows) % tuple(rows.reshape(-1).tolist())
