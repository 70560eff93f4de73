"""Tests of federation/."""
