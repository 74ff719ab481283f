"""A Django app: prompt templates, tools and chats in the database."""
