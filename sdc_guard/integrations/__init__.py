"""The guard in other people's trainers; each file needs the trainer that it is named after."""
