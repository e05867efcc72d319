// Who are you? Shown while the server refuses calls: asks for name and password where there are some, else for a token.
import { useEffect, useRef, useState } from 'preact/hooks'
import { locked, passwords, signIn, unlock } from '../poll.js'

export function Login() {
  const [byToken, setByToken] = useState(false)
  const [busy, setBusy] = useState(false)
  const name = useRef(null)
  const secret = useRef(null)
  const asks = passwords.value && !byToken
  useEffect(() => (asks ? name : secret).current.focus(), [asks])
  const submit = async (event) => {
    event.preventDefault()
    const text = secret.current.value
    if (!text || (asks && !name.current.value)) return
    setBusy(true)
    await (asks ? signIn(name.current.value.trim(), text) : unlock(text.trim()))
    setBusy(false)
  }
  return (
    <form class="login" onSubmit={submit}>
      <img src="/favicon.svg" alt="" width="32" height="32" />
      <h1>Coalition</h1>
      <p role="status">{locked.value}</p>
      {asks && (
        <>
          <label for="user">Name</label>
          <input id="user" ref={name} type="text" autocomplete="username" spellcheck={false} />
        </>
      )}
      <label for="secret">{asks ? 'Password' : 'API token'}</label>
      <input id="secret" ref={secret} type="password" autocomplete="current-password" spellcheck={false} />
      <button type="submit" class="main" disabled={busy}>
        Sign in
      </button>
      {!asks && (
        <p class="hint">
          Whoever runs the farm can make one. It is kept in this tab only, and forgotten when the tab is closed.
        </p>
      )}
      {passwords.value && (
        <button type="button" class="plain" onClick={() => setByToken(!byToken)}>
          {asks ? 'Use an API token' : 'Use a password'}
        </button>
      )}
    </form>
  )
}
