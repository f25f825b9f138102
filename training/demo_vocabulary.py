"""The words of the demo world: subjects and details by topic, titles and comments by tone."""

TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cooking": (
        ("ramen", "sourdough", "curry", "pizza", "dumplings", "paella"),
        ("broth", "dough", "seasoning", "pan", "crust", "garlic"),
    ),
    "football": (
        (
            "penalty kicks",
            "goalkeepers",
            "derby matches",
            "free kicks",
            "transfers",
            "counterattacks",
        ),
        ("referee", "midfield", "striker", "pass", "defence", "corner"),
    ),
    "gardening": (
        ("tomatoes", "roses", "compost", "bonsai", "herbs", "orchids"),
        ("soil", "watering", "pruning", "pot", "roots", "seedlings"),
    ),
    "astronomy": (
        ("Saturn", "black holes", "the Moon", "comets", "Mars rovers", "telescopes"),
        ("orbit", "lens", "gravity", "crater", "launch", "dust"),
    ),
    "guitar": (
        ("fingerpicking", "blues solos", "bass lines", "barre chords", "flamenco", "guitar pedals"),
        ("strings", "tuning", "riff", "fretboard", "amp", "rhythm"),
    ),
    "cycling": (
        (
            "gravel bikes",
            "hill climbs",
            "bike repairs",
            "city commutes",
            "downhill trails",
            "time trials",
        ),
        ("tyres", "saddle", "brakes", "gears", "chain", "helmet"),
    ),
    "chess": (
        ("endgames", "the Sicilian", "blitz games", "gambits", "chess puzzles", "rook sacrifices"),
        ("bishop", "opening", "clock", "checkmate", "pawns", "blunder"),
    ),
    "travel": (
        ("night trains", "Lisbon", "Kyoto", "mountain huts", "street markets", "island ferries"),
        ("backpack", "hostel", "ticket", "view", "border", "locals"),
    ),
    "cats": (
        ("kittens", "rescue cats", "cat toys", "Maine Coons", "senior cats", "cat naps"),
        ("whiskers", "paws", "purring", "litter", "tail", "treats"),
    ),
    "retro computers": (
        ("the Commodore", "floppy disks", "pixel art", "chiptunes", "old modems", "arcade boards"),
        ("keyboard", "cartridge", "soldering", "screen", "joystick", "memory"),
    ),
    "woodworking": (
        ("dovetail joints", "workbenches", "hand planes", "oak tables", "wood carving", "chairs"),
        ("chisel", "grain", "glue", "sanding", "clamp", "varnish"),
    ),
    "history": (
        ("Roman roads", "Vikings", "castles", "shipwrecks", "old maps", "the Silk Road"),
        ("emperor", "trade", "siege", "ruins", "harbour", "legend"),
    ),
}
"""Topic → (subjects of videos, details that comments mention)."""

TITLES: dict[str, tuple[str, ...]] = {
    "funny": (
        "I tried {subject} and everything went wrong",
        "{subject} fails that made me cry laughing",
        "When {subject} go hilariously wrong, part {number}",
        "My ridiculous attempt at {subject}, take {number}",
    ),
    "expert": (
        "{subject} explained by a professional, lesson {number}",
        "Advanced technique for {subject}: the {detail}",
        "The science of {subject} in {number} minutes",
        "{number} expert mistakes with {subject} and {detail}",
    ),
    "calm": (
        "Slow and quiet {subject}, no talking",
        "Relaxing evening with {subject} and rain",
        "{number} peaceful minutes of {subject}",
        "A gentle morning with {subject}, episode {number}",
    ),
    "critical": (
        "The honest truth about {subject} in {number} points",
        "Why {subject} are badly overrated",
        "Stop believing this about {subject} and {detail}",
        "{subject}: an unforgiving review, part {number}",
    ),
    "nostalgic": (
        "{subject} like grandfather remembered them",
        "Remembering {subject} from the good old days",
        "{subject} of my childhood, memory {number}",
        "How {subject} looked {number} years ago",
    ),
    "hype": (
        "INSANE {subject} you must see right now",
        "The greatest {subject} ever, top {number}!",
        "{number} unbelievable moments with {subject}!",
        "World record {subject} challenge, round {number}!",
    ),
}
"""Tone → titles of 4 to 9 words."""

COMMENTS: dict[str, tuple[str, ...]] = {
    "funny": (
        "haha the {detail} at the end killed me",
        "my dog watched the {detail} and left the room lol",
        "me with {subject}: confident for {number} seconds, then chaos haha",
        "lol who gave this man a {detail}",
        "I laughed so hard I forgot my own {detail}",
    ),
    "expert": (
        "Correct, but check the {detail} before you start with {subject}.",
        "As a professional: the {detail} matters more than people think.",
        "Measured it, {number} percent better with a different {detail}.",
        "The principle behind {subject} is the {detail}, well explained.",
        "Technically the {detail} should come first, see minute {number}.",
    ),
    "calm": (
        "So soothing, I fell asleep to the {detail}",
        "the sound of the {detail} is pure peace",
        "watching {subject} every evening with tea, thank you",
        "quiet, gentle and warm, lovely {detail}",
        "breathing slowly, just {subject} and silence",
    ),
    "critical": (
        "Disagree, the {detail} was handled badly here.",
        "Overrated. {subject} deserve a more honest video.",
        "You ignored the {detail} completely, disappointing.",
        "Sorry, minute {number} about the {detail} is simply wrong.",
        "Too many cuts, too little {detail}, not convinced.",
    ),
    "nostalgic": (
        "My grandmother taught me {subject} when I was {number}",
        "this {detail} brings back childhood summers",
        "we had the same {detail} at home years ago",
        "miss the old days of {subject}, simpler times",
        "reminds me of dad and his {detail}, long ago",
    ),
    "hype": (
        "WOW that {detail} was absolutely insane!!!",
        "best {subject} video EVER, take my like!",
        "{number} times replayed, the {detail} is unreal!!",
        "LET'S GO, {subject} to the top!!!",
        "no way!! that {detail} gave me goosebumps!",
    ),
}
"""Tone → comments of 4 to 14 words."""
