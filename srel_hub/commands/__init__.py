"""The subcommands of `srel-hub`: arguments and printed output. Everything they do is imported when they run."""
