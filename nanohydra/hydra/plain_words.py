"""Small lists of English words that the router needs: all in lower case."""

from __future__ import annotations

PLAIN = frozenset(
    """a about above after again age all also am an and any anybody anyone are around as ask at attend attended
    away back be because been before being below best between birth birthday born boss both brother but buy by
    call called came can cat celebrate colleague come cook cooks could daughter day describe did die died do
    does dog doing done down drink drive drives during each earn earns eat eats else employer ever exactly
    explain father favorite favourite feel few find first food for friend from full general get give go going
    good got graduate grew grow grows had happen happened has hate hates have having hello help here hi hobby
    hometown how husband i identify if in instrument into is it its job just keep keeps know known knows last
    learn let like likes list live lived lives living long look love loves made make many married marry may
    maybe me mean meet might more most mother move moved much must my name named near need new next nice no nor
    not now of off ok okay old on once one only open or originally other our out over own owned owns per pet
    play played plays please prefer profession raised really remind retire retired right said same say see sell
    she should show since sing sings sister sleep sleeps so sold some someone son speak speaks spell spend start
    state still stop studied studies study such take talk taught teach teaches tell than thank thanks that the
    their them then there these they thing this those through till time to today too trade travel under until up
    us use used very visit want was way we wear well were what whats when where wheres which while who whom whos
    whose why wife will wish with won work worked working works would write written wrote yes yesterday yet you
    your""".split()  # noqa: SIM905 - so many literals would read worse
)
"""Words that are no names: they may stand beside a name, also in questions typed without capitals."""
OWNED = frozenset(
    """age best birth birthday boss brother cat colleague daughter dog employer father favorite favourite food
    friend hobby hometown husband instrument job mother name pet profession sister son trade wife work""".split()  # noqa: SIM905 - so many literals would read worse
)
"""What people ask of somebody: may follow the "s" of a possessive typed without an apostrophe ("mira solbergs job")."""
FUNCTION = frozenset(
    """a about also am an and any anything are as at be been being but by can could did do does everything for from
    had happen has have he her hers him his how i if in into is it its know like list may me might my name of on
    or our please remind say she should show so some something tell than that the their them then there these
    they this those to up us was we were what whats when where which who whom whose will with would you your""".split()  # noqa: SIM905 - so many literals would read worse
)
"""Words that do not tell what a question asks for."""
PRONOUNS = frozenset(
    """he her hers herself him himself his it its itself she their theirs them themselves they""".split()  # noqa: SIM905 - so many literals would read worse
)
"""What may stand for somebody who was named before."""
FIRST_PERSON = frozenset(
    """i id ill im ive me mine my myself""".split()  # noqa: SIM905 - so many literals would read worse
)
"""What a person calls themselves."""
TITLES = frozenset(
    """dame dr king lady lord miss mr mrs ms mx prince princess prof professor queen saint sir st""".split()  # noqa: SIM905 - so many literals would read worse
)
"""May stand before any name."""
PARTICLES = frozenset(
    """af al av bin da de del den der di du el ibn la le ten ter van von zu""".split()  # noqa: SIM905 - so many literals would read worse
)
"""Lower-case parts of surnames."""
