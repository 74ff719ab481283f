"""The site as a whole: its settings, its addresses and how servers find it."""
