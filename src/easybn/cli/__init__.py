"""The commands, a module each: argument parsing, files and printing; nothing else knows of argv or YAML."""
