// Browsers start no worker for a page that was opened from a folder: there, search runs in a hidden frame.
window.Worker = class extends EventTarget {
  constructor(url) {
    super()
    const frame = document.createElement("iframe")
    frame.hidden = true
    frame.srcdoc = ""
    this.started = new Promise((done) => {
      frame.onload = () => {
        const inside = frame.contentWindow
        inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
        const script = inside.document.createElement("script")
        script.src = url
        script.onload = () => done(inside)
        inside.document.head.append(script)
      }
    })
    document.body.append(frame)
  }

  async postMessage(data) {
    const inside = await this.started
    inside.dispatchEvent(new MessageEvent("message", { data }))
  }
}
