"""Words and sentences that the rehearsal listens for and speaks with."""

from __future__ import annotations


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


DETERMINERS = _split("the a an your our my its their his her each every this these those")

STOP_WORDS = DETERMINERS | _split(
    """
    about above after again against all almost along already also although always am among and
    another any anyone anything are aren't around as ask asked asks at away back be became because
    become been before being below between both bring but by call called came can can't cannot
    come comes could couldn't did didn't do does doesn't doing don't done down during either else
    enough even ever few find for from gave get gets give given gives go goes going gone got had
    has hasn't have haven't having he hear her here hers herself him himself his how i i'd i'll
    i'm i've if in instead into is isn't it it's itself just keep keeps know known later least
    less let let's like likely look looks made make makes making many may me mean means might
    mine more most much must myself need needs neither never no nobody none nor not nothing now of
    off often on once one only onto open or other others our ours out over own per please put
    puts quite rather really said same saw say says see seem seems seen shall she should since so
    some someone something soon still such take taken takes tell tells than that that's their
    theirs them themselves then there there's they thing things think thinks though through
    thus till to together told too took toward two under until up upon us use used uses using
    very want wants was way we well went were what what's when where whether which while who
    whom whose why will with within without won't would yes yet you you're yours yourself cost
    costs work works three four five brings runs sits stands
    """
)
"""Words too common to say what a text is about, and verbs that end a phrase after an article."""

FILLERS = _split(
    """
    answer answers assistant character context conversation end example field fields first focus
    following format group human instruction instructions json last list message messages model
    moderator next object others paragraph people person persona prompt question questions
    reply response rest role round rounds second sentence sentences simulation step text user word
    words reaction verdict statement statements opinion opinions topic discussion turn
    """
)
"""Words about the conversation itself, which nobody in it would talk about."""

INSTRUCTIONS = _split(
    """
    add agree answer ask be begin choose comment consider continue describe discuss do
    draw evaluate explain focus give imagine keep list make name never note only pick please
    provide rate react reply respond return round say score speak start state stay summarise
    summarize suppose tell then think try use write you your
    """
)
"""A statement that begins so tells what to do, and not what is."""

OPENINGS = (
    "Let me start with the {topic}.",
    "I keep coming back to the {topic}.",
    "My first thought goes to the {topic}.",
    "For me it comes down to the {topic}.",
    "I like what I hear about the {topic}.",
    "I am not sure about the {topic} yet.",
    "I would look hard at the {topic} before anything else.",
    "I can picture the {topic} in my own week.",
    "To be honest, I had not expected the {topic}.",
    "Nobody has to explain the {topic} to me.",
    "I want to believe in the {topic}.",
)

BARE_OPENINGS = (
    "I would like to think about that for a moment.",
    "That is a fair question, and I have no quick answer.",
    "I can see it both ways.",
    "My first answer is yes, with a condition or two.",
    "I would rather try it than talk about it.",
    "I am curious, though not convinced.",
    "There is more to that than it seems.",
    "I have been wondering about the same thing.",
    "I will say plainly what I think.",
    "That depends on whom you ask.",
    "I would start small and see.",
)
"""For a prompt in which no topic can be found."""

REACTIONS = (
    "I go along with {other} on the {about}.",
    "I hear {other}, but I see the {about} differently.",
    "{other} said it well, and I would still ask about the {about}.",
    "Like {other}, I want to know more about the {about}.",
    "{other} made me think twice about the {about}.",
    "I cannot follow {other} on the {about}.",
)

REASONS = (
    "As {role}, I have seen how quickly the {topic} can go wrong.",
    "As {role}, I ask who pays for the {topic} in the end.",
    "I say that as {role}, and I would judge the {topic} by it.",
)

CONVICTIONS = (
    "I hold to one thing: {conviction}.",
    "What I live by is simple: {conviction}.",
    "You know what I always say: {conviction}.",
)

OPINIONS = (
    "On {about} I have not changed my mind: {opinion}.",
    "As for {about}: {opinion}.",
)

THOUGHTS = (
    "The {topic} I can live with.",
    "With the {topic} I would want to see a plain figure.",
    "Somebody should explain the {topic} to me slowly.",
    "I would ask my neighbours about the {topic} first.",
    "Without the {topic} I would not bother.",
    "I do not see the {topic} lasting the winter.",
    "Give me the {topic} and I stop arguing.",
    "I have paid for worse than the {topic}.",
    "What happens to the {topic} when it rains?",
)

BARE_THOUGHTS = (
    "I have seen good ideas fail for smaller reasons.",
    "My family would notice before I did.",
    "I would ask my neighbours first.",
    "Somebody should put a plain figure on it.",
    "It has to work on a bad day too.",
    "I do not mind being proved wrong.",
)

CLOSINGS = (
    "I would try it for a month and then decide.",
    "Show me that it works and I am in.",
    "If that is settled, I would tell a friend about it.",
    "Until then I would wait.",
    "So my answer is yes, for now.",
    "So my answer is no, for now.",
    "Ask me again when I have tried it.",
    "I would pay for that, though not much more than I pay today.",
)

NAMES = (
    "Ada Novak", "Ben Okafor", "Carla Reyes", "Dina Haddad", "Emil Larsen", "Farah Aziz",
    "Greta Weiss", "Hugo Martin", "Ines Costa", "Jonas Berg",
)  # fmt: skip

PLACES = ("Bristol", "Lisbon", "Toronto", "Nairobi", "Osaka", "Lima", "Gdansk", "Pune")
