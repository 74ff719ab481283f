"""How the settings of an endpoint are called where they stand, for errors that name them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SettingNames:
    """Where an endpoint's settings stand, and what they are called there."""

    where: str = ""
    """The source and the entry; empty: the names say enough."""
    api_key: str = "api_key"
    """Empty: no key can stand there."""
    base_url: str = "base_url"
    model: str = "model"
    rehearsal: str = ""
    """What asks for a rehearsal without a model; empty: that is not offered."""

    def locate(self, name: str) -> str:
        """Names a setting, and where it stands."""
        return f"{name} in {self.where}" if self.where else name

    def say_how_to_give(self, name: str, variable: str) -> str:
        """Says what to do about a setting that is missing.

        Args:
            name: What it is called here; empty: it cannot be given here.
            variable: The environment variable that is as good; empty: there is none.
        """
        ways = [f"give {self.locate(name)}"] if name and name != variable else []
        if variable:
            ways.append(f"set the environment variable {variable}")
        return ", or ".join(ways)


ARGUMENTS = SettingNames()
"""Of what is given in Python."""

CONFIG_INI = SettingNames(
    api_key="",
    base_url="BASE_URL in config.ini",
    model="MODEL",
    rehearsal="API_TYPE = rehearsal",
)

CONFIG_INI_AZURE = SettingNames(api_key="", base_url="AZURE_OPENAI_ENDPOINT", model="MODEL")
