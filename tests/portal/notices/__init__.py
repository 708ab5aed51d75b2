"""Tests of what reaches people who aren't on a page: notifications, and approvals answered in them."""
