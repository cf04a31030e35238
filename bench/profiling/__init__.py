"""Measures what steps and copies of the real engine take, and fits a profile to it."""
