"""Journeys of users, third-party clients and services, and the documentation."""
