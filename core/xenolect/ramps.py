"""The shares a rollout goes through, in parts per million.

Geometric: every step exposes the same relative growth, ``p0 ** (1 - k / steps)``. The last level holds a
control group back, because at 100 % nobody is left to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence

from xenolect.errors import ConfigError

__all__ = ["MILLION", "levels"]

MILLION = 1_000_000


def levels(
    initial_fraction: float,
    steps: int,
    ramp: str = "geometric",
    explicit: Sequence[float] | None = None,
    holdback: float = 0.05,
) -> tuple[int, ...]:
    """The levels of a rollout, ascending; the last is ``1 - holdback``.

    ``explicit`` fractions are taken as they are (a last one of 1 is lowered to ``1 - holdback``).
    ConfigError for shares out of range or not ascending.
    """
    top = MILLION - round(holdback * MILLION)
    if not 0.0 <= holdback < 1.0:
        raise ConfigError(f"holdback must be a fraction in [0, 1), got {holdback}")
    if explicit is not None:
        ppm = [min(round(fraction * MILLION), top) for fraction in explicit]
        if not ppm or any(not 0.0 < f <= 1.0 for f in explicit) or sorted(set(ppm)) != ppm:
            raise ConfigError(
                f"levels must be ascending fractions in (0, 1], got {list(explicit)}; "
                f"the last may be at most {top / MILLION:g} (1 - holdback)"
            )
        return tuple(ppm)
    if not 0.0 < initial_fraction * MILLION <= top:
        raise ConfigError(
            f"initial_fraction must be more than 0 and at most {top / MILLION:g} (1 - holdback), "
            f"got {initial_fraction}"
        )
    if steps < 0:
        raise ConfigError(f"ramp_steps must be 0 or more, got {steps}")
    if ramp == "geometric":
        shares = [initial_fraction ** (1 - k / steps) for k in range(steps)]
    elif ramp == "linear":
        shares = [initial_fraction + (1 - initial_fraction) * k / steps for k in range(steps)]
    else:
        raise ConfigError(f"ramp must be 'geometric' or 'linear', got {ramp!r}")
    ppm = [min(round(share * MILLION), top) for share in shares or [initial_fraction]]
    if steps:
        ppm.append(top)
    return tuple(sorted(set(ppm)))
