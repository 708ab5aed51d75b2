"""Tests of what reaches people when they are not at a page: notifications, and approvals answered in them."""
