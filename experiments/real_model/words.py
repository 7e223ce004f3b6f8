"""The words that prompts are made of; those that are no single token of the tokenizer are left out."""

_PAIRS = (
    "Sweden:Stockholm Norway:Oslo Denmark:Copenhagen Finland:Helsinki Iceland:Reykjavik Ireland:Dublin "
    "France:Paris Spain:Madrid "
    "Portugal:Lisbon Italy:Rome Austria:Vienna Germany:Berlin Belgium:Brussels Poland:Warsaw "
    "Hungary:Budapest Greece:Athens Turkey:Ankara Russia:Moscow Ukraine:Kiev Romania:Bucharest Bulgaria:Sofia "
    "Serbia:Belgrade Croatia:Zagreb Switzerland:Bern England:London Scotland:Edinburgh Wales:Cardiff Egypt:Cairo "
    "Kenya:Nairobi Nigeria:Abuja Ethiopia:Addis Morocco:Rabat Tunisia:Tunis Algeria:Algiers Libya:Tripoli "
    "Ghana:Accra Uganda:Kampala Zimbabwe:Harare Senegal:Dakar China:Beijing Japan:Tokyo Korea:Seoul India:New "
    "Pakistan:Islamabad Bangladesh:Dhaka Nepal:Kathmandu Iran:Tehran Iraq:Baghdad Syria:Damascus Lebanon:Beirut "
    "Israel:Jerusalem Jordan:Amman Afghanistan:Kabul Thailand:Bangkok Vietnam:Hanoi Indonesia:Jakarta "
    "Philippines:Manila Malaysia:Kuala Cuba:Havana Jamaica:Kingston Canada:Ottawa Mexico:Mexico Peru:Lima "
    "Chile:Santiago Argentina:Buenos Colombia:Bog Venezuela:Caracas Ecuador:Quito Bolivia:La Uruguay:Montevideo "
    "Australia:Canberra"
)
CAPITALS = {country: capital for country, _, capital in (pair.partition(":") for pair in _PAIRS.split())}
MEN = (
    "William James John Robert Charles George Henry Thomas Edward Peter Paul David Michael Daniel Richard Joseph "
    "Frank Arthur Samuel Andrew Martin Philip Simon Stephen Walter Albert Jack Harry Adam Tom"
).split()
WOMEN = (
    "Mary Elizabeth Sarah Anna Jane Margaret Alice Emily Helen Ruth Susan Laura Julia Emma Martha Catherine Rachel "
    "Barbara Nancy Linda Lucy Kate Grace Rose Jennifer Karen Maria Rebecca Jessica Charlotte"
).split()
WELCOMES = (
    "When {} came home,", "After {} woke up,", "Before {} went out,", "When {} sat down,", "While {} was away,",
    "After {} came back,", "Because {} was late,", "When {} grew old,",
)  # fmt: skip
GIFTS = (
    "When {a} and {b} went to the store, {s} gave a drink to",
    "When {a} and {b} met at the park, {s} gave a book to",
    "After {a} and {b} came to the office, {s} handed the keys to",
    "While {a} and {b} sat in the garden, {s} passed the bread to",
)
SPANS = "war reign strike siege dispute trip journey project voyage drought famine rebellion trial study".split()
SUBJECTS = {
    word: f"{word}s"
    for word in (
        "mother student teacher soldier brother doctor lawyer farmer player friend author manager scientist driver "
        "sister king queen singer actor writer painter neighbor guard pilot nurse judge artist officer worker leader"
    ).split()
}
OPENINGS = "When If Because Today Although While Since Before".split()
ADMIRES = (
    "follow", "help", "call", "admire", "visit", "know", "see", "like", "love", "hate", "meet", "trust",
)  # fmt: skip
