"""Tests of user journeys, third-party clients and services, and the documentation."""
