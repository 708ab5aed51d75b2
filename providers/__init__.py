"""How upstream services speak: provider files, OAuth, request rules, tools."""
