"""Journeys of users, foreign clients and services, and the documentation."""
