"""Tests of client_app/warm."""
