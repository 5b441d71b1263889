"""The calculator tool: exact arithmetic over a small, bounded expression language.

Grammar (Pratt-free recursive descent; precedence and associativity are Python's):

    comparison := sum (("<" | "<=" | ">" | ">=" | "==" | "!=") sum)*
    sum        := product (("+" | "-") product)*
    product    := unary (("*" | "/" | "//" | "%") unary)*
    unary      := ("-" | "+") unary | power
    power      := atom ("**" unary)?
    atom       := number | "(" sum ")"

Values are fractions, so that 0.1 + 0.2 is 0.3 and integers are exact. Every bound below exists because the expression
is written by a language model: whatever it writes, the answer comes at once and is short.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 256
"""Characters in an expression."""
MAX_DEPTH = 32
"""Nested brackets, signs and powers."""
MAX_BITS = 1024
"""Size of a numerator or denominator, also in between (about 308 decimal digits)."""
PLACES = 10
"""Digits printed after the point of a number that is no integer (significant digits when it is below 1)."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)|(?P<sign>\*\*|//|[<>=!]=|[-+*/%()<>]))",
    re.ASCII,
)
_COMPARE: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_ARITHMETIC: dict[str, Callable[[Fraction, Fraction], Fraction | int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_TYPOGRAPHY = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})


class CalculatorError(ValueError):
    """What is wrong with an expression, in a few words."""


@dataclass(frozen=True)
class Tool:
    """A tool called inside the model's turn: `{call}expression{result}answer{end}`, the answer forced by the engine."""

    name: str
    """How a message part is labelled."""
    call: str
    """Special token that opens a call."""
    result: str
    """Special token with which the model asks for the answer."""
    end: str
    """Special token that closes the call, forced after the answer."""
    function: Callable[[str], str]
    """From the text between `call` and `result` to the answer; must not raise."""


def calculate(expression: str) -> str:
    """The value of `expression` as text, or "error: ..." in a few words. Never raises.

    Integers are exact, other numbers are rounded to `PLACES` digits, comparisons give "true" or "false".
    """
    try:
        value = _Parser(expression).parse()
    except CalculatorError as e:
        return f"error: {e}"
    return ("true" if value else "false") if isinstance(value, bool) else format_number(value)


CALCULATOR = Tool("calculator", "<|calc|>", "<|result|>", "<|end_calc|>", calculate)


def format_number(value: Fraction) -> str:
    """`value` in decimal: an integer exactly, otherwise rounded (half to even) with no trailing zeros."""
    if value.denominator == 1:
        return str(value.numerator)
    size, exponent = abs(value), 0
    while size * 10**exponent < 1:
        exponent += 1
    places = PLACES + max(0, exponent - 1)
    digits = str(round(size * 10**places)).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    if exponent > PLACES:  # too many zeros to read: 0.00000000000012 is 1.2e-13
        significant = digits.lstrip("0")
        shift = len(significant) - 1 - places
        fraction = significant[1:].rstrip("0")
        return f"{sign}{significant[0]}{'.' if fraction else ''}{fraction}e{shift}"
    whole, fraction = digits[:-places], digits[-places:].rstrip("0")
    return f"{sign}{whole}{'.' if fraction else ''}{fraction}"


class _Parser:
    """Evaluates while it parses: no tree is built."""

    def __init__(self, expression: str) -> None:
        if len(expression) > MAX_LENGTH:
            raise CalculatorError("expression too long")
        self.tokens = _tokens(expression.translate(_TYPOGRAPHY))
        self.at = 0
        self.depth = 0

    def parse(self) -> Fraction | bool:
        left = self.sum()
        outcome: bool | None = None
        while self.peek() in _COMPARE:
            compare, right = _COMPARE[self.take()], self.sum()
            outcome = compare(left, right) and outcome is not False
            left = right
        if self.peek():
            raise CalculatorError(f"unexpected {self.peek()[:12]}")
        return left if outcome is None else outcome

    def sum(self) -> Fraction:
        value = self.product()
        while self.peek() in ("+", "-"):
            value = _apply(self.take(), value, self.product())
        return value

    def product(self) -> Fraction:
        value = self.unary()
        while self.peek() in ("*", "/", "//", "%"):
            value = _apply(self.take(), value, self.unary())
        return value

    def unary(self) -> Fraction:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CalculatorError("nested too deeply")
        if self.peek() in ("-", "+"):
            value = -self.unary() if self.take() == "-" else self.unary()
        else:
            value = self.atom()
            if self.peek() == "**":
                self.take()
                value = _power(value, self.unary())
        self.depth -= 1
        return value

    def atom(self) -> Fraction:
        token = self.take()
        if token == "(":
            value = self.sum()
            if self.take() != ")":
                raise CalculatorError("missing )")
            return value
        if token[:1] in "0123456789." and token:
            return _bounded(Fraction(token))
        raise CalculatorError(f"unexpected {token}" if token else "expression ends too early")

    def peek(self) -> str:
        """The next token, or "" at the end."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token


def _tokens(expression: str) -> list[str]:
    found, at, expression = [], 0, expression.rstrip()
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise CalculatorError(f"unexpected {expression[at:].strip()[:1]!r}")
        found.append(match["number"] or match["sign"])
        at = match.end()
    return found


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise CalculatorError("number too large")
    return value


def _apply(sign: str, left: Fraction, right: Fraction) -> Fraction:
    try:
        return _bounded(Fraction(_ARITHMETIC[sign](left, right)))
    except ZeroDivisionError:
        raise CalculatorError("division by zero") from None


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise CalculatorError("division by zero")
    if exponent.denominator == 1:
        n, size = exponent.numerator, max(base.numerator.bit_length(), base.denominator.bit_length())
        if size == 1 and n:  # base is 0, 1 or -1, and the exponent may be astronomical
            return base if n % 2 else abs(base)
        # Checked before computing: (size - 1) * n is a lower bound of the result's bits.
        if (size - 1) * abs(n) > MAX_BITS:
            raise CalculatorError("number too large")
        return _bounded(Fraction(base**n))
    if base < 0:
        raise CalculatorError("not a real number")
    try:
        return _bounded(Fraction(float(base) ** float(exponent)))
    except OverflowError:
        raise CalculatorError("number too large") from None
