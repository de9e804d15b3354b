"""The interactive view: what notebooks show of an explorer's view."""
