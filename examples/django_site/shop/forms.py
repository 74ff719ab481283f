"""What customers can send."""

from __future__ import annotations

from django import forms

from tinytroupe.contrib.django.models import PromptTemplate


class NewChatForm(forms.Form):
    """What a new chat is about."""

    prompt_template = forms.ModelChoiceField(
        PromptTemplate.objects.all(), label="What is it about?", empty_label=None
    )


class MessageForm(forms.Form):
    """A message to the assistant."""

    message = forms.CharField(
        label="Your message",
        max_length=4000,
        widget=forms.Textarea(attrs={"rows": 2, "aria-describedby": "keys"}),
        error_messages={"required": "There is no message yet."},
    )

    def clean_message(self) -> str:
        """Returns the message with line ends that are the same however it was sent."""
        # Else a message that is sent again would not be the same one.
        return str(self.cleaned_data["message"]).replace("\r\n", "\n")
