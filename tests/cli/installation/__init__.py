"""What is shipped and how it is installed: wheel, bundle, releases, other systems, machines with several users."""
