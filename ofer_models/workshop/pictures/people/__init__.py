"""Pictures of people: MakeHuman's skins, hair and teeth on the open head, for the landmark network. Build-time only."""
