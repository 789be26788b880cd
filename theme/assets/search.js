/* The search worker reads questions as they are typed. The build puts this before Material's own worker. */

{
  // lunr knows a node of its word tree by its text, where the digits of edges and of numbers run together: it takes
  // different nodes for the same, and then knows neither 1 nor 10.
  const repair = ({ TokenSet }) => {
    TokenSet.prototype.toString = function () {
      const edges = Object.keys(this.edges).sort().map((edge) => `${edge}${this.edges[edge].id},`)
      return this._str || `${+this.final}${edges.join("")}`
    }
  }

  // Words that say something, cut to what their forms have in common: what starts with that is found. Numbers and
  // short words are found as they are (^1 says so to lunr), except the last, which may not be complete.
  const plain = (question, { stemmer, stopWordFilter, tokenizer, Token }) => {
    const words = question.toLowerCase().split(tokenizer.separator).map((word) => word.replace(/^\W+|[~^:"\\]|\W+$/g, ""))
    const said = words.filter((word) => word && stopWordFilter(new Token(word)))
    const common = (word) => {
      const stem = stemmer(new Token(word)).toString()
      const n = [...word].findIndex((letter, i) => letter !== stem[i])
      return n < 4 ? word : word.slice(0, n)
    }
    return (said.length ? said : words.filter(Boolean))
      .map((word, i, { length }) => (i < length - 1 && (word.length < 3 || !isNaN(word)) ? `${word}^1` : common(word)))
      .join(" ")
  }

  addEventListener("message", ({ data }) => {
    if (data.type === 0) repair(lunr)
    if (data.type === 2) data.data = plain(data.data, lunr)
  })
}
